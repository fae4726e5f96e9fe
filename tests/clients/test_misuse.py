"""What a program does wrong with a client is named, at once, with what to write instead."""

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from statecell_client import (
    AsyncClient,
    Client,
    InvalidRequest,
    SessionNotFound,
    Snapshot,
    SnapshotMismatch,
    StateBudgetExceeded,
)
from statecell_client.cli.app import app
from typer.testing import CliRunner

X = np.full(10, 0.5, np.float32)


def test_a_closed_client_says_so(address: str) -> None:
    client = Client(address)
    session = client.session("lstm")
    session.step(X)
    session.close()
    client.close()
    for call in (client.models, lambda: session.step(X), lambda: list(session.stream([X]))):
        with pytest.raises(ValueError, match="the client is closed; step its sessions within its with block"):
            call()


def test_a_session_that_was_not_awaited_says_how_to(address: str) -> None:
    async def forgets() -> None:
        async with AsyncClient(address) as client:
            opening = client.session("lstm")
            with pytest.raises(AttributeError, match=r"it has no 'step': write session = await client\.session"):
                opening.step(X)
            await (await opening).close()

    asyncio.run(forgets())


def test_what_never_fits_is_refused_at_once(client: Client) -> None:
    began = time.monotonic()
    with pytest.raises(StateBudgetExceeded, match="ask for fewer, or serve with more") as refused:
        client.session("lstm", batch=1 << 30)
    assert refused.value.retry_seconds is None
    assert time.monotonic() - began < 30  # of the minute for which a client repeats what may pass


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", None, True])
def test_a_number_of_rows_or_of_forks_is_one_or_more(client: Client, count: object) -> None:
    with pytest.raises(InvalidRequest, match=f"batch is {count!r}, expected 1 or more"):
        client.session("lstm", batch=count)  # type: ignore[arg-type]
    with client.session("lstm", batch=np.int64(2)) as session:  # type: ignore[arg-type]
        assert session.batch == 2
        if count is not None:
            with pytest.raises(InvalidRequest, match=f"n is {count!r}, expected 1 or more"):
                session.fork(count)  # type: ignore[call-overload]


def test_a_snapshots_bytes_are_told_to_be_read_first(client: Client, tmp_path: Path) -> None:
    with client.session("lstm") as session:
        session.step(X)
        snapshot = session.snapshot()
    with pytest.raises(InvalidRequest, match=r"snapshot is bytes, .*Snapshot\.from_bytes"):
        client.session("lstm", snapshot=snapshot.to_bytes())  # type: ignore[arg-type]
    with pytest.raises(SnapshotMismatch, match="0 bytes are not a snapshot"):
        Snapshot.from_bytes(b"")
    with pytest.raises(SnapshotMismatch, match="a str came; open the file with 'rb'"):
        Snapshot.from_bytes("text")  # type: ignore[arg-type]
    assert repr(snapshot) == "<Snapshot of lstm at step_index 1: h_0 [2, 1, 20], c_0 [2, 1, 20]>"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X}, r"step\(\*\*inputs\)"),
        ([str(number) for number in X], "give numbers, as float"),
        (iter(X), "give numbers, lists of them or arrays"),
    ],
)
def test_what_is_no_array_is_told_what_to_give(client: Client, given: object, message: str) -> None:
    with client.session("lstm") as session:
        with pytest.raises(Exception, match=message) as refused:
            session.step(given)
        assert type(refused.value).__name__ in ("InvalidRequest", "DtypeMismatch")
        assert session.step_index == 0


def test_a_deleted_session_says_why_it_may_be_gone(client: Client) -> None:
    session = client.session("lstm")
    session.close()
    with pytest.raises(SessionNotFound, match="it was deleted, or is of another server"):
        session.step(X)


def test_a_client_says_where_it_calls(address: str) -> None:
    with Client([address, "box:1"]) as client:
        assert repr(client) == f"<Client of {address}, box:1>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "{}/no.csv", "--model", "lstm"), "there is no file {}/no.csv"),
        (("run", "{}", "--model", "lstm"), "has no ending in its name"),
        (("run", "{}/x.npy", "--restore", "{}/no.snapshot"), "there is no file {}/no.snapshot"),
        (("run", "{}/x.npy", "--restore", "{}"), "{} is a folder, expected a file"),
        (("run", "{}/x.npy", "--model", "lstm", "--save", "{}/no/a"), "{}/no/a cannot be written: there is no folder"),
        (("run", "{}/x.npy", "--model", "lstm", "--save", "{}"), "{} cannot be written: it is a folder"),
        (("run", "{}/junk.npy", "--model", "lstm"), "junk.npy cannot be read: it is not what numpy.save"),
        (("infer", "lstm", "{}/none.npz"), "there is no file {}/none.npz"),
        (("session", "restore", "{}/no.snapshot"), "there is no file {}/no.snapshot"),
        (("step", "{id}", "0.5,1"), "was given '0.5,1', expected numbers"),
        (("session", "create", "lstm", "--batch", "0"), "batch is 0, expected 1 or more"),
    ],
)
def test_the_command_names_the_file_or_word_that_is_wrong(
    address: str, client: Client, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 10), np.float32))
    (tmp_path / "junk.npy").write_text("junk")
    with client.session("lstm") as session:
        words = [word.format(tmp_path, id=session.id) for word in arguments]
        result = CliRunner(env={"STATECELL_SERVER": address, "COLUMNS": "300"}).invoke(app, words)
        assert session.step_index == 0
    assert result.exit_code == 1
    assert message.format(tmp_path) in result.output
    assert "Errno" not in result.output


@pytest.mark.parametrize("command", [(), ("run",), ("session",), ("session", "create")])
def test_help_is_short_for_help(command: tuple[str, ...]) -> None:
    short, long = (CliRunner().invoke(app, [*command, option]) for option in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
