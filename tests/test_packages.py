"""The four distributions move together and say what they offer."""

import importlib
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["protos", "export", "server", "clients/python"]


def project(folder: str) -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"])


def test_all_have_one_version_and_ask_for_that_of_the_protos() -> None:
    versions = {project(folder)["version"] for folder in FOLDERS}
    assert len(versions) == 1
    (version,) = versions
    for folder in FOLDERS[1:]:
        assert f"statecell-protos=={version}" in project(folder)["dependencies"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_a_server_image_needs_no_torch_and_a_client_neither_torch_nor_onnx() -> None:
    for folder in ("server", "protos", "clients/python"):
        names = {dependency.split(">")[0].split("=")[0].split("[")[0] for dependency in project(folder)["dependencies"]}
        assert not names & {"torch", "onnx"}
    assert not any("onnxruntime" in d for d in project("server")["dependencies"]), "its flavour is an extra"


@pytest.mark.parametrize("package", ["statecell_export", "statecell_client"])
def test_the_public_names_are_sorted_and_there(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize(
    "package", ["protos/statecell", "export/statecell_export", "server/statecell_server", "clients/python/statecell_client"]
)
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
