"""What a session gives through the clients of other languages: bit for bit what it gives through Python's."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from statecell_client import Client, Snapshot
from torch import nn

from tests.clients.languages.conftest import CLIENTS, Language, documented
from tests.clients.languages.driver import Driver
from tests.conftest import LIMIT

XS = np.random.default_rng(0).standard_normal((600, 10)).astype(np.float32)


def same(got: Any, expected: Any) -> None:
    """Equal in shape, dtype and every bit."""
    np.testing.assert_array_equal(got, expected, strict=True)


def test_steps_give_what_python_gets(driver: Driver, client: Client, modules: dict[str, nn.Module]) -> None:
    driver.session("a", "lstm")
    with client.session("lstm") as reference:
        answers = [driver.step("a", x) for x in XS[:20]]
        for answer, x in zip(answers, XS, strict=False):
            same(answer, reference.step(x))
    local, _ = modules["lstm"](torch.from_numpy(XS[:20, None]))
    np.testing.assert_allclose(np.stack(answers), local[:, 0].detach(), atol=1e-5)
    assert driver.index("a") == 20


@pytest.mark.parametrize("count", [5, 600])
@pytest.mark.parametrize(("model", "shape"), [("lstm", (-1, 2, 10)), ("gru", (2, -1, 4))])
def test_runs_of_any_length_give_what_python_gets(
    driver: Driver, client: Client, model: str, shape: tuple[int, int, int], count: int
) -> None:
    xs = np.resize(XS, count * 2 * shape[-1]).reshape(shape)
    driver.session("a", model, batch=2)
    with client.session(model, batch=2) as reference:
        same(driver.run("a", xs), reference.run(xs))
        same(driver.run("a", xs.ravel()), reference.run(xs))
    assert driver.index("a") == 2 * count


def test_a_stream_gives_what_python_gets(driver: Driver, client: Client) -> None:
    driver.session("a", "lstm")
    with client.session("lstm") as reference:
        for answer, x in zip(driver.stream("a", XS[:30]), XS[:30], strict=True):
            same(answer, reference.step(x))
    assert driver.index("a") == 30


def test_inputs_and_outputs_have_names_where_there_are_several(driver: Driver, client: Client) -> None:
    driver.session("a", "two", batch=2)
    u, v = XS[:2, :3], XS[2:4, :2]
    with client.session("two", batch=2) as reference:
        for got in (driver.step("a", {"v": v, "u": u}), *driver.stream("a", [{"u": u.ravel(), "v": v.ravel()}] * 3)):
            expected = reference.step(u=u, v=v)
            assert set(got) == set(expected)
            for name, array in expected.items():
                same(got[name], array)


@pytest.mark.parametrize("x", [3, np.array([[3]])])
def test_ids_are_given_as_numbers(driver: Driver, client: Client, x: Any) -> None:
    driver.session("a", "letters")
    with client.session("letters") as reference:
        if np.ndim(x) == 0:
            same(driver.step("a", x), reference.step(3))
        else:
            same(driver.run("a", x), reference.run(x))


def test_a_cell_steps_too(driver: Driver, client: Client) -> None:
    driver.session("a", "lstm_cell", batch=3)
    with client.session("lstm_cell", batch=3) as reference:
        same(driver.step("a", XS[:3]), reference.step(XS[:3]))
        same(driver.step("a", XS[3:6].ravel()), reference.step(XS[3:6]))


def test_a_session_forks_resets_and_tells_its_state(driver: Driver, client: Client) -> None:
    driver.session("a", "lstm")
    first = driver.run("a", XS[:3, None])
    driver.ask("fork", "a", "b,c")
    same(driver.step("b", XS[3]), driver.step("a", XS[3]))
    assert [driver.index(name) for name in "abc"] == [4, 4, 3]
    state = driver.state("c")
    assert {name: array.shape for name, array in state.items()} == {"h_0": (2, 1, 20), "c_0": (2, 1, 20)}
    driver.session("d", "lstm", state=state)
    same(driver.step("d", XS[3]), driver.step("c", XS[3]))
    driver.ask("reset", "a")
    assert driver.index("a") == 0
    same(driver.run("a", XS[:3, None]), first)


def test_a_snapshot_goes_from_language_to_language(driver: Driver, client: Client, tmp_path: Path) -> None:
    driver.session("a", "lstm")
    driver.run("a", XS[:3, None])
    driver.ask("save", "a", tmp_path / "a")
    snapshot = Snapshot.from_bytes((tmp_path / "a").read_bytes())
    with client.session("lstm", snapshot=snapshot) as session:
        assert session.step_index == 3
        same(session.step(XS[3]), driver.step("a", XS[3]))
        (tmp_path / "b").write_bytes(session.snapshot().to_bytes())
        driver.ask("restore", "b", "lstm", tmp_path / "b")
        assert driver.index("b") == 4
        same(session.step(XS[4]), driver.step("b", XS[4]))


def test_a_session_of_another_client_is_attached_to(driver: Driver, client: Client) -> None:
    with client.session("lstm", batch=2) as session:
        session.step(XS[:2])
        driver.ask("attach", "a", session.id, 0)
        assert driver.index("a") == 1
        driver.step("a", XS[2:4])
        assert session.snapshot().step_index == 2


def test_infer_takes_states_and_gives_them(driver: Driver, client: Client) -> None:
    x = XS[:15].reshape(5, 3, 10)
    without = driver.infer("lstm", x=x)
    for name, array in client.infer("lstm", x=x).items():
        same(without[name], array)
    given: dict[str, Any] = {"x": x, "h_0": without["h_n"], "c_0": without["c_n"]}
    for name, array in client.infer("lstm", **given).items():
        same(driver.infer("lstm", **given)[name], array)


def test_models_and_sessions_are_listed(driver: Driver, client: Client) -> None:
    assert driver.ask("models").split(",") == [model.name for model in client.models()]
    driver.session("a", "rnn_cell")
    assert driver.ask("sessions", "rnn_cell").split(",") == [driver.ask("id", "a")]
    driver.ask("close", "a")
    assert driver.ask("sessions", "rnn_cell") == ""


def test_the_example_streams(language: Language, address: str) -> None:
    out = subprocess.run([*language.example, address], capture_output=True, text=True, timeout=LIMIT, check=True).stdout
    assert out.splitlines()[0].startswith("step 1: y[0] = ")
    assert out.splitlines()[-1] == "h_0 has 40 numbers"
    assert len(out.splitlines()) == 6


def test_the_documented_example_gives_what_the_documented_python_gives(
    language: Language, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "ADDRESS": address}
    package = CLIENTS / "node"  # within which its own name is known
    run = subprocess.run(
        language.documented, env=environment, cwd=package, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    exec(documented("python", repr(address)), {})
    got, expected = (re.findall(r"-?\d+\.\d+", out) for out in (run.stdout, capsys.readouterr().out))
    assert len(got) == 6
    np.testing.assert_allclose(np.array(got, float), np.array(expected, float), atol=1e-5)
