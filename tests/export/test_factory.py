"""A module is named as people name it, and what keeps it from being made is told with what to write instead."""

import sys
from pathlib import Path

import pytest
from statecell_export import ExportError
from statecell_export.factory import make
from torch import nn

HEAD = "from torch import nn\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one. What is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.mark.parametrize("target", ["{0}.py:build", "./{0}.py:build", "{0}:build", "{0}:ready"])
def test_a_file_a_module_and_a_module_that_is_there_already_are_all_named(target: str, folder: Path) -> None:
    name = f"speech_{abs(hash(target))}"
    (folder / f"{name}.py").write_text(f"{HEAD}def build():\n    return nn.GRU(2, 3)\n\nready = nn.GRU(2, 3)\n")
    assert isinstance(make(target.format(name))[0], nn.GRU)


@pytest.mark.parametrize("target", ["voices/parts/net.py:build", "voices.parts.net:build", "voices/parts/net:build"])
def test_a_file_within_a_package_may_import_from_it(target: str, folder: Path) -> None:
    inner = folder / "voices" / "parts"
    inner.mkdir(parents=True)
    (folder / "voices" / "__init__.py").touch()
    (inner / "__init__.py").touch()
    (folder / "voices" / "sizes.py").write_text("HIDDEN = 3\n")
    (inner / "net.py").write_text(f"{HEAD}from ..sizes import HIDDEN\n\ndef build():\n    return nn.GRU(2, HIDDEN)\n")
    assert make(target)[0].hidden_size == 3


def test_a_part_of_a_package_that_is_named_alone_is_told_from_where(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folder / "chorus"
    inner.mkdir()
    (inner / "alto.py").write_text("from .tenor import build\n")
    monkeypatch.chdir(inner)
    with pytest.raises(ExportError, match=r"run from the folder that holds that, as chorus\.alto:build"):
        make("alto:build")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('--epochs', required=True)\np.parse_args()\n",
            "line 4",
        ),
        ("raise SystemExit('no data')\n", "exit no data"),
        (f"{HEAD}def build():\n    quit()\n", "exit None"),
    ],
)
def test_a_script_that_ends_the_process_is_told_to_be_a_module(source: str, message: str, folder: Path) -> None:
    name = f"script_{abs(hash(source))}"
    (folder / f"{name}.py").write_text(source)
    with pytest.raises(ExportError, match=rf"{name} ends the process.*{message}.*__name__ == '__main__'"):
        make(f"{name}:build")


def test_a_script_that_reads_its_command_line_does_not_see_this_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["statecell-export", "module", "--form", "int8"])
    (folder / "reads.py").write_text(
        f"{HEAD}import argparse\np = argparse.ArgumentParser()\np.add_argument('--hidden', type=int, default=5)\n"
        "a = p.parse_args()\n\ndef build():\n    return nn.GRU(2, a.hidden)\n"
    )
    assert make("reads.py:build")[0].hidden_size == 5
    assert sys.argv[0] == "statecell-export"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("parts.py:Sized", r"needs size, and is called without arguments; .* def make\(\): return Sized\(…\)"),
        ("parts.py:configured", r"needs config, rate, and is called without"),
        ("parts.py:Size", r"has no attribute 'Size'; it has Sized"),
        ("parts.py:Sized(3)", r"has no attribute 'Sized\(3\)'; it has Sized"),
        ("nowhere.py:Sized", r"there is no file nowhere\.py"),
        ("../elsewhere.py:Sized", r"lies outside of this folder; run from the folder"),
        ("parts.py", r"write it as pkg\.mod:factory or pkg/mod\.py:factory"),
    ],
)
def test_what_cannot_be_called_so_is_told_what_to_write(target: str, message: str, folder: Path) -> None:
    (folder / "parts.py").write_text(
        f"{HEAD}class Sized(nn.Module):\n    def __init__(self, size):\n        super().__init__()\n\n"
        "def configured(config, rate, depth=2):\n    return Sized(3)\n"
    )
    (folder.parent / "elsewhere.py").write_text(HEAD)
    with pytest.raises(ExportError, match=message):
        make(target)
