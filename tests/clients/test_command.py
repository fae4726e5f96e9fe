"""The statecell command against a real server."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from statecell_client import Client, Snapshot
from statecell_client.cli.app import app
from typer.testing import CliRunner, Result

from tests.conftest import LIMIT, Serve

Statecell = Callable[..., Result]
XS = np.random.default_rng(0).standard_normal((50, 10)).astype(np.float32)


@pytest.fixture
def statecell(address: str) -> Statecell:
    """Runs the command with these arguments; it must end with `exit_code`."""

    def call(*arguments: object, exit_code: int = 0) -> Result:
        result = CliRunner(env={"STATECELL_SERVER": address}).invoke(app, [str(a) for a in arguments])
        assert result.exit_code == exit_code, result.output
        return result

    return call


def test_models_are_listed_with_their_inputs(statecell: Statecell) -> None:
    shown = statecell("models").output
    assert "x int64 [batch, seq_len]" in shown
    assert "h_0 -> h_n float32 [2, batch, 20]" in shown
    assert "no sessions: LSTM is bidirectional" in re.sub(r"[\s│]+", " ", shown)


def test_a_session_is_created_stepped_saved_restored_and_deleted(statecell: Statecell, client: Client, tmp_path: Path) -> None:
    session_id = statecell("session", "create", "lstm").stdout.strip()
    assert session_id in statecell("sessions", "--model", "lstm").output
    y = statecell("step", session_id, "--", *XS[0]).stdout
    np.testing.assert_array_equal(np.array(y.split(), np.float32), client.infer("lstm", x=XS[:1, None])["y"][0, 0])
    file = tmp_path / "a.snapshot"
    assert "lstm at step_index 1" in statecell("session", "save", session_id, file).output
    restored = statecell("session", "restore", file).stdout.strip()
    assert statecell("step", restored, "--", *XS[1]).stdout == statecell("step", session_id, "--", *XS[1]).stdout
    for one in (session_id, restored):
        statecell("session", "delete", one)
        assert "SessionNotFound" in statecell("step", one, "1", exit_code=1).output


def test_several_inputs_are_given_by_name(statecell: Statecell) -> None:
    session_id = statecell("session", "create", "two").stdout.strip()
    lines = statecell("step", session_id, "u=1,2,-3", "v=0.5,1").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["y:", "y_1:"]
    assert [len(line.split()) for line in lines] == [3, 4]
    assert "has no 'w'" in statecell("step", session_id, "w=1", exit_code=1).output
    statecell("session", "delete", session_id)


def test_an_id_is_stepped_as_a_number(statecell: Statecell) -> None:
    session_id = statecell("session", "create", "letters").stdout.strip()
    assert len(statecell("step", session_id, "5").stdout.split()) == 17
    assert "invalid literal" in statecell("step", session_id, "five", exit_code=1).output
    statecell("session", "delete", session_id)


@pytest.mark.parametrize("kind", [".csv", ".npy", ".npz"])
def test_a_file_is_run_and_gives_what_infer_gives(statecell: Statecell, client: Client, tmp_path: Path, kind: str) -> None:
    file, out = tmp_path / f"in{kind}", tmp_path / f"out{kind}"
    match kind:
        case ".csv":
            np.savetxt(file, XS, delimiter=",", header=",".join("abcdefghij"), comments="", fmt="%.9g")
        case ".npy":
            np.save(file, XS)
        case _:
            np.savez(file, x=XS)
    statecell("run", file, "--model", "lstm", "--out", out)
    match kind:
        case ".csv":
            assert out.read_text().startswith("y_0,y_1,")
            ys = np.loadtxt(out, delimiter=",", skiprows=1, dtype=np.float32)
        case ".npy":
            ys = np.load(out)
        case _:
            ys = np.load(out)["y"]
    np.testing.assert_array_equal(ys, client.infer("lstm", x=XS[:, None])["y"][:, 0])


def test_a_run_goes_on_from_where_the_one_before_ended(statecell: Statecell, client: Client, tmp_path: Path) -> None:
    whole = client.infer("lstm", x=XS[:, None])["y"][:, 0]
    first, second, snapshot, out = (tmp_path / name for name in ("1.npy", "2.npy", "evening.snapshot", "out.npy"))
    np.save(first, XS[:30])
    np.save(second, XS[30:])
    statecell("run", first, "--model", "lstm", "--out", out, "--save", snapshot)
    assert Snapshot.from_bytes(snapshot.read_bytes()).step_index == 30
    statecell("run", second, "--restore", snapshot, "--out", out)
    np.testing.assert_array_equal(np.load(out), whole[30:])
    session_id = statecell("session", "restore", snapshot).stdout.strip()
    statecell("run", second, "--session", session_id, "--out", out)
    np.testing.assert_array_equal(np.load(out), whole[30:])
    statecell("session", "delete", session_id)


def test_rows_of_a_batch_and_ids_and_several_inputs_come_from_files(
    statecell: Statecell, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    np.save(tmp_path / "rows.npy", np.stack([XS, XS], 1))
    statecell("run", tmp_path / "rows.npy", "--model", "lstm", "--out", out)
    assert np.load(out)["y"].shape == (50, 2, 20)
    (tmp_path / "ids.csv").write_text("id\n5\n6.0\n7\n")
    statecell("run", tmp_path / "ids.csv", "--model", "letters", "--out", out)
    np.testing.assert_array_equal(np.load(out)["y"], client.infer("letters", x=[[5, 6, 7]])["y"][0])
    np.savetxt(tmp_path / "two.csv", XS[:, :5], delimiter=",")
    shown = statecell("run", tmp_path / "two.csv", "--model", "two").stdout.splitlines()
    assert shown[0] == "y_0,y_1,y_1_0,y_1_1,y_1_2"
    assert len(shown) == 51


def test_each_mistake_says_what_to_do(statecell: Statecell, tmp_path: Path) -> None:
    good, bad, odd = tmp_path / "good.npy", tmp_path / "bad.csv", tmp_path / "odd.csv"
    np.save(good, XS)
    bad.write_text("1,2\n1,x\n")
    odd.write_text("1,2\n1,2,3\n")
    for arguments, message in [
        (("run", tmp_path / "none.csv", "--model", "lstm"), "none.csv"),
        (("run", bad, "--model", "lstm"), "line 2 has 'x', expected a number"),
        (("run", odd, "--model", "lstm"), "line 2 has 3 columns, expected 2"),
        (("run", good, "--model", "two"), "holds u; model 'two' takes u, v"),
        (("run", good, "--model", "lstm", "--out", tmp_path / "out.txt"), "expected .csv"),
        (("run", good, "--model", "lstm", "--out", tmp_path / "no" / "out.csv"), "No such file"),
        (("run", good, "--model", "nope"), "there is no model 'nope'"),
        (("run", tmp_path / "x.txt", "--model", "lstm"), "expected .csv, .npy or .npz"),
        (("models", "--server", "127.0.0.1:1"), "Start one with make serve"),
    ]:
        assert message in statecell(*arguments, exit_code=1).output
    assert "one of --model, --session and --restore" in re.sub(r"[\s│]+", " ", statecell("run", good, exit_code=2).output)


def test_watch_shows_how_fast_sessions_step(statecell: Statecell, serve: Serve) -> None:
    with serve() as server, Client(server.address) as client, client.session("lstm") as session:
        session.step(XS[0])
        shown = statecell("watch", "--server", server.address, "--interval", "0.1", "--count", "2").output
        assert session.id in shown
        assert "1 sessions, 0 steps/s" in shown


def test_watch_ends_quietly_on_ctrl_c(address: str) -> None:
    # Through env, because a shell has its background jobs ignore Ctrl-C, and they pass that on.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "statecell_client", "watch", "--interval", "0.1"]
    environment = {**os.environ, "STATECELL_SERVER": address, "TERM": "xterm"}  # a dumb one is shown the end only
    terminal, its_end = pty.openpty()
    with subprocess.Popen(command, stdout=its_end, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert select.select([terminal], [], [], LIMIT)[0], "nothing was shown"
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    os.close(terminal)
    os.close(its_end)
    assert (process.returncode, complaints) == (0, "")


def test_every_command_has_help_with_an_example(statecell: Statecell) -> None:
    for command in (
        "models",
        "sessions",
        "step",
        "run",
        "watch",
        "session create",
        "session save",
        "session restore",
        "session delete",
    ):
        assert f"Example: statecell {command}" in statecell(*command.split(), "--help").output
