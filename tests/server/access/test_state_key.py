"""With a key, nobody makes up a state: neither a client in a snapshot, nor whoever can write to the store."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from statecell_server.access.state_key import NO_KEY, StateKey, StateKeyError
from statecell_server.config import Config
from statecell_server.durability.record import Record
from statecell_server.durability.sealed_store import SealedStore
from statecell_server.durability.store import MemoryStore
from statecell_server.engine.engine import Engine
from statecell_server.errors import SnapshotMismatch
from statecell_server.sessions.session import Session
from statecell_server.sessions.snapshot import Snapshot

from tests.conftest import Serve
from tests.faults.replicas import Redis
from tests.server.caller import Caller, reason_of
from tests.server.test_ends import ended

X = {"x": np.ones((1, 1, 10), np.float32)}
Make = Callable[..., Awaitable[Engine]]


def key(path: Path, *lines: str) -> StateKey:
    path.write_text("\n".join(lines))
    return StateKey(path)


ONE, OTHER = "1" * 32, "2" * 40


@pytest.fixture
async def engine(lstm_only: Path) -> AsyncIterator[Make]:
    """Makes engines on one store."""
    made: list[Engine] = []

    async def make(state_key: StateKey, store: MemoryStore) -> Engine:
        sealed = SealedStore(store, state_key) if state_key.sealing else store
        made.append(Engine(Config(models=lstm_only), sealed, state_key=state_key))
        await made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.stop()


async def stepped(engine: Engine, *, durable: bool) -> Session:
    session = await engine.lifecycle.create("lstm", durable=durable)
    await engine.steps.step(session.id, X, 0)
    return session


async def restored(engine: Engine, snapshot: Snapshot, seal: bytes) -> Session:
    return await engine.lifecycle.create("lstm", snapshot=snapshot, checksum=seal)


async def test_only_snapshots_that_a_key_has_sealed_are_taken(engine: Make, tmp_path: Path) -> None:
    store, keys = MemoryStore(60), [key(tmp_path / "a", ONE), key(tmp_path / "b", OTHER, "", ONE), key(tmp_path / "c", OTHER)]
    first, both, second = [await engine(k, store) for k in keys]
    session = await stepped(first, durable=False)
    snapshot = await first.lifecycle.snapshot(session.id)
    seal = snapshot.seal(keys[0])
    for taker in (first, both):
        assert (await restored(taker, snapshot, seal)).step_index == 1
    forged = Snapshot(snapshot.model, snapshot.digest, 1, 5, {n: array + 1 for n, array in snapshot.states.items()})
    for taker, content, given in (
        (second, snapshot, seal),  # of another key
        (first, snapshot, snapshot.checksum()),  # of none
        (first, snapshot, b""),
        (first, forged, seal),
        (first, forged, forged.checksum()),
        (await engine(NO_KEY, store), snapshot, seal),
    ):
        with pytest.raises(SnapshotMismatch):
            await restored(taker, content, given)


async def test_only_records_that_a_key_has_sealed_for_their_session_are_taken(engine: Make, tmp_path: Path) -> None:
    store = MemoryStore(60)
    ours = await engine(key(tmp_path / "a", ONE), store)
    one, other = await stepped(ours, durable=True), await stepped(ours, durable=True)
    elsewhere = await engine(key(tmp_path / "b", OTHER, ONE), store)
    _, index = await elsewhere.steps.step(one.id, X, 1)
    assert index == 2
    records = store._records
    good = records[other.id]
    decoded = Record.decode(good[0][:-32])
    unsealed = Record(decoded.model, decoded.version, decoded.digest, "", 1, 1, 0.0, decoded.states).encode()
    for bad in (unsealed, unsealed + bytes(32), records[one.id][0], good[0][:-1], good[0][:-32], b""):
        records[other.id] = bad, good[1]
        fresh = await engine(key(tmp_path / "c", OTHER, ONE), store)
        with pytest.raises(SnapshotMismatch, match="no seal by a key of this server"):
            await fresh.steps.step(other.id, X, 1)
        assert records[other.id][0] == bad, "it is left as it is"
    records[other.id] = good
    _, index = await (await engine(key(tmp_path / "c", OTHER, ONE), store)).steps.step(other.id, X, 1)
    assert index == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "0 keys"),
        ("short", "key 1 is shorter than 32 characters"),
        (f"{ONE}\nshort", "key 2"),
        ("\n".join([ONE] * 17), "17 keys"),
    ],
)
def test_a_file_without_good_keys_is_refused_at_the_start(tmp_path: Path, lstm_only: Path, content: str, said: str) -> None:
    with pytest.raises(StateKeyError, match=said):
        key(tmp_path / "key", *content.split("\n"))
    done = ended("--models", str(lstm_only), "--state-key", str(tmp_path / "key"))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_with_a_key_gives_and_takes_its_own_snapshots(serve: Serve, lstm_only: Path, tmp_path: Path) -> None:
    from statecell_client import Client
    from statecell_client import SnapshotMismatch as Refused

    (tmp_path / "key").write_text(ONE)
    with (
        serve("--state-key", str(tmp_path / "key"), models=lstm_only) as sealing,
        serve(models=lstm_only) as plain,
        Client(sealing.address) as ours,
        Client(plain.address) as theirs,
    ):
        x = np.ones((1, 10), np.float32)
        with ours.session("lstm") as session, theirs.session("lstm") as stranger:
            session.step(x)
            stranger.step(x)
            with ours.session("lstm", snapshot=session.snapshot()) as again:
                assert np.array_equal(again.step(x), session.step(x))
            with pytest.raises(Refused, match="no seal"):
                ours.session("lstm", snapshot=stranger.snapshot())


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server: apt-get install redis-server")
def test_replicas_with_one_key_go_on_with_each_others_sessions_and_one_without_does_not(
    serve: Serve, lstm_only: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(ONE)
    x = X["x"]
    with (
        Redis(tmp_path) as redis,
        serve("--state-key", str(tmp_path / "key"), "--store", redis.url, models=lstm_only) as one,
        serve("--state-key", str(tmp_path / "key"), "--store", redis.url, models=lstm_only) as two,
        serve("--store", redis.url, models=lstm_only) as plain,
    ):
        callers = [Caller(server.address) for server in (one, two, plain)]
        session = callers[0].create("lstm", durable=True)
        callers[0].step(session, x, 0)
        callers[1].step(session, x, 1)
        with pytest.raises(grpc.RpcError) as refused:
            callers[2].step(session, x, 2)
        assert reason_of(refused.value) == "SNAPSHOT_MISMATCH"
        callers[0].step(session, x, 2)
        for caller in callers:
            caller.channel.close()
