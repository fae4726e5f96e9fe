"""What `make wheels` builds, installed by itself."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import LIMIT, Serve
from tests.test_packages import FOLDERS, ROOT, project


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # With this environment, which has the tools, whether or not it is the one that make would make.
    run("make", "--old-file", ".venv/.installed", "wheels", f"DIST={folder}", f"BIN={Path(sys.executable).parent}", cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def fresh(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the four wheels; what they depend on is this environment's."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin/python"
    names = [project(package)["name"] for package in FOLDERS]
    offline = ("--no-deps", "--no-index", "--find-links", dist)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *offline, *names, cwd=dist)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=dist).strip()
    # A path that is named so adds its packages alone, not those that are installed in editable mode there.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def metadata(dist: Path) -> Iterator[tuple[str, str]]:
    for path in dist.iterdir():
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
                assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist()), path
                yield path.name, wheel.read(name).decode()
        else:
            with tarfile.open(path) as archive:
                file = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
                assert file is not None
                yield path.name, file.read().decode()


def test_a_wheel_and_a_sdist_of_each_say_what_they_need_and_nothing_of_this_machine(dist: Path) -> None:
    found = dict(metadata(dist))
    assert len(found) == 2 * len(FOLDERS)
    for name, text in found.items():
        needs = [line for line in text.splitlines() if line.startswith("Requires-Dist:")]
        assert not [line for line in needs if "torch==" in line or "@" in line or "file:" in line], name
        assert str(ROOT) not in text
        assert "License-Expression: Apache-2.0" in text


def test_the_four_run_from_their_wheels(fresh: Path, serve: Serve, models: Path, tmp_path: Path) -> None:
    code = "import statecell, statecell_client, statecell_examples, statecell_export, statecell_server as s; print(s.__file__)"
    assert str(fresh.parent) in run(fresh / "python", "-c", code, cwd=tmp_path)
    for command in ("statecell", "statecell-server", "statecell-export"):
        assert run(fresh / command, "--version", cwd=tmp_path) == f"{command} {project('protos')['version']}\n"
    (tmp_path / "m.py").write_text("import torch\ndef make(): return torch.nn.GRU(4, 6), torch.zeros(5, 3, 4)\n")
    run(fresh / "statecell-export", "module", "m:make", "--name", "gru", cwd=tmp_path)
    np.save(tmp_path / "x.npy", np.ones((5, 4), np.float32))
    with serve(models=tmp_path / "models", python=fresh / "python") as server:
        said = run(fresh / "statecell", "run", "x.npy", "--model", "gru", "--server", server.address, cwd=tmp_path)
    assert len(said.splitlines()) == 6


@pytest.mark.parametrize("package", FOLDERS)
def test_each_carries_the_licence(package: str) -> None:
    assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
