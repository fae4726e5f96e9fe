"""The statecell command against a real server."""

import json
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
DATED = "day,up,down\n2024-01-01,0.5,1.5\n2024-01-02,2.5,3.5\n"
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
    assert "'five', expected whole numbers" in statecell("step", session_id, "five", exit_code=1).output
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
    def written(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    good = tmp_path / "good.npy"
    np.save(good, XS)
    bad = written("bad.csv", ",".join("1" * 10) + "\n1,x,3,4,5,6,7,8,9,10\n")
    odd = written("odd.csv", "1,2\n1,2,3\n")
    dated = written("dated.csv", DATED)
    semicolons = written("semicolons.csv", DATED.replace(",", ";"))
    fractions, junk = written("fractions.csv", "1.5\n"), written("junk.npy", "junk")
    empty, titles = written("empty.csv", ""), written("titles.csv", "a,b\n")
    for arguments, message in [
        (("run", tmp_path / "none.csv", "--model", "lstm"), "none.csv"),
        (("run", bad, "--model", "lstm"), "line 2, column 2 has 'x', expected a number"),
        (("run", odd, "--model", "lstm"), "line 2 has 3 columns, expected 2"),
        (("run", good, "--model", "two"), "holds one array; model 'two' takes u, v"),
        (("run", good, "--model", "lstm", "--out", tmp_path / "out.txt"), "expected .csv"),
        (("run", good, "--model", "lstm", "--out", tmp_path / "no" / "out.csv"), "there is no folder"),
        (("run", good, "--model", "nope"), "there is no model 'nope'"),
        (("run", tmp_path / "x.txt", "--model", "lstm"), "expected .csv, .tsv, .npy or .npz"),
        (("run", good, "--model", "lstm", "--out", tmp_path), "expected .csv"),
        (("run", empty, "--model", "lstm"), "is empty, expected a line for each time step"),
        (("run", titles, "--model", "lstm"), "has titles and nothing below them"),
        (("run", dated, "--model", "rates"), "has 3 columns (day, up, down), the model takes 2; choose the model's columns"),
        (("run", dated, "--model", "rates"), "--columns up,down"),
        (("run", dated, "--model", "rates", "--columns", "day,up"), "column 'day' has '2024-01-01', expected a number"),
        (("run", dated, "--model", "rates", "--columns", "up,left"), "no column 'left': it has titles day, up, down"),
        (("run", semicolons, "--model", "rates"), "is it another delimiter? --delimiter ';'"),
        (("run", dated, "--model", "rates", "--delimiter", ";;"), "expected one character, or tab"),
        (("run", fractions, "--model", "letters"), "line 1 has '1.5', expected a whole number for 'x'"),
        (("run", junk, "--model", "lstm"), "junk.npy cannot be read"),
        (("models", "--server", "127.0.0.1:1"), "Start one with make serve"),
    ]:
        result = statecell(*arguments, exit_code=1)
        assert message in result.output
        assert "Warning" not in result.output
    assert "one of --model, --session and --restore" in re.sub(r"[\s│]+", " ", statecell("run", good, exit_code=2).output)


def test_columns_are_chosen_by_title_or_number_and_delimiters_may_be_others(
    statecell: Statecell, client: Client, tmp_path: Path
) -> None:
    want = client.infer("rates", x=np.array([[[0.5, 1.5]], [[2.5, 3.5]]], np.float32))["y"][:, 0]
    file, out = tmp_path / "dated.csv", tmp_path / "out.npy"
    for text, options in [
        (DATED, ("--columns", "up,down")),
        (DATED, ("--columns", "2,3")),
        ("\ufeff" + DATED.replace(",", ";"), ("--columns", "up,down", "--delimiter", ";")),
        (DATED.replace(",", "\t"), ("--columns", "up,down", "--delimiter", "tab")),
        ("".join(DATED.splitlines(keepends=True)[1:]), ("--columns", "2,3")),
    ]:
        file.write_text(text, encoding="utf-8")
        said = statecell("run", file, "--model", "rates", "--out", out, *options).output
        assert f"2 time steps of rates: y [2, 6] written to {out}" in said
        np.testing.assert_array_equal(np.load(out), want)


def test_a_run_that_fails_leaves_the_file_that_was_there_and_makes_none(statecell: Statecell, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([[0.5, np.nan]], np.float32))
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.write_text("precious")
    for out in (old, new):
        said = statecell("run", tmp_path / "bad.npy", "--model", "rates", "--out", out, exit_code=1).output
        assert "NonFiniteInput" in said
    assert old.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npy", "old.csv"]


def test_a_stateless_call_from_a_file_gives_what_infer_gives(statecell: Statecell, client: Client, tmp_path: Path) -> None:
    want = client.infer("lstm", x=XS[:, None])
    np.savetxt(tmp_path / "x.csv", XS, delimiter=",", fmt="%.9g")
    said = statecell("infer", "lstm", tmp_path / "x.csv", "--out", tmp_path / "y.csv").output
    assert "y [50, 20] written to" in said
    ys = np.loadtxt(tmp_path / "y.csv", delimiter=",", skiprows=1, dtype=np.float32)
    np.testing.assert_array_equal(ys, want["y"][:, 0])
    for array in (XS, XS[:, None]):
        np.save(tmp_path / "x.npy", array)
        statecell("infer", "lstm", tmp_path / "x.npy", "--out", tmp_path / "y.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), want["y"])
    states = {"h_0": want["h_n"], "c_0": want["c_n"]}
    np.savez(tmp_path / "x.npz", x=XS[:, None], **states)
    statecell("infer", "lstm", tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    on = np.load(tmp_path / "y.npz")
    for name, array in client.infer("lstm", x=XS[:, None], **states).items():
        np.testing.assert_array_equal(on[name], array)
    (tmp_path / "ids.csv").write_text("5\n6\n7\n")
    shown = statecell("infer", "letters", tmp_path / "ids.csv").stdout.splitlines()
    np.testing.assert_array_equal(np.array(shown[1].split(","), np.float32), client.infer("letters", x=[[5, 6, 7]])["y"][0, 0])
    shown = statecell("infer", "lstm_cell", tmp_path / "x.csv").stdout.splitlines()
    assert len(shown) == 51


def test_a_classifier_that_reads_the_last_step_is_called_whole_from_a_file(
    statecell: Statecell, client: Client, tmp_path: Path
) -> None:
    np.savetxt(tmp_path / "x.csv", XS[:, :2], delimiter=",", fmt="%.9g")
    titles, line = statecell("infer", "verdict", tmp_path / "x.csv").stdout.splitlines()
    assert titles == "y_0,y_1,y_2"
    want = client.infer("verdict", x=XS[None, :, :2])["y"][0]
    np.testing.assert_array_equal(np.array(line.split(","), np.float32), want)
    assert "NotStreamable" in statecell("run", tmp_path / "x.csv", "--model", "verdict", exit_code=1).output


def test_health_is_an_exit_code(statecell: Statecell, address: str) -> None:
    assert statecell("health").stdout == f"{address}: SERVING\n"
    assert statecell("health", "lstm").stdout == f"{address}: SERVING\n"
    assert "NOT_FOUND: the server has no 'lstn'" in statecell("health", "lstn", exit_code=1).stdout
    answers = json.loads(statecell("health", "--server", "127.0.0.1:1", "-s", address, "--json", exit_code=1).stdout)
    assert answers.pop(address) == "SERVING"
    assert answers["127.0.0.1:1"].startswith("UNAVAILABLE: ")


def test_what_is_a_table_for_people_is_json_for_programs(statecell: Statecell, client: Client) -> None:
    models = {model["name"]: model for model in json.loads(statecell("models", "--json").stdout)}
    assert models["lstm"]["spec"]["states"][0]["input"] == "h_0"
    assert models["lstm"]["digest"] == client.model("lstm").digest
    with client.session("lstm") as session:
        session.step(XS[0])
        (listed,) = [s for s in json.loads(statecell("sessions", "--json").stdout) if s["id"] == session.id]
        assert (listed["step_index"], listed["model"]) == (1, "lstm")
        look = json.loads(statecell("watch", "--json", "--count", "1").stdout)
        assert {"id": session.id, "model": "lstm", "step_index": 1, "steps_per_second": 0.0} in look


def test_each_look_is_shown_where_no_terminal_is_and_a_closed_pipe_ends_it_quietly(address: str) -> None:
    command = [sys.executable, "-m", "statecell_client", "watch", "--interval", "0.1"]
    environment = {**os.environ, "STATECELL_SERVER": address}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            looks = 0
            while looks < 3:
                line = process.stdout.readline()
                assert line, "it ended"
                looks += "steps/s" in line and "sessions" in line
            process.stdout.close()
            process.wait(LIMIT)
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_a_long_output_whose_reader_has_gone_ends_quietly(address: str, tmp_path: Path) -> None:
    np.save(tmp_path / "long.npy", np.tile(XS, (100, 1)))
    command = f"{sys.executable} -m statecell_client run {tmp_path}/long.npy --model lstm --server {address} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.stdout.split(",")[0], done.stderr) == ("y_0", "")


def test_the_version_is_told(statecell: Statecell) -> None:
    assert re.fullmatch(r"statecell \d+\.\d+\.\d+\n", statecell("--version").stdout)


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
        "infer",
        "health",
        "watch",
        "session create",
        "session save",
        "session restore",
        "session delete",
    ):
        assert f"Example: statecell {command}" in statecell(*command.split(), "--help").output
