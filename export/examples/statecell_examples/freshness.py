"""Whether an example's export is what its sources would give again."""

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

MARK = ".made_from"
"""The file beside a model's versions that holds the digest of what it was made from."""


def sources() -> str:
    """A digest of all that an export of the examples is made of: their code and weights, the exporter, and what it runs on."""
    digest = hashlib.sha256(sys.version.encode())
    for package in ("torch", "onnx", "onnxruntime", "numpy", "statecell-export", "statecell-protos"):
        digest.update(f"{package} {version(package)}\n".encode())
    for path in _files():
        digest.update(f"{path.name}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_fresh(models: Path, name: str, made_from: str) -> bool:
    """Whether models/name is an export of these sources, and its files are those that were exported."""
    try:
        if (models / name / MARK).read_text() != made_from:
            return False
        artifacts = json.loads((models / name / "1" / "report.json").read_text())["artifacts"]
        files = {file: (models / name / "1" / file).read_bytes() for file in artifacts}
    except (OSError, ValueError, KeyError):  # absent, cut short, or of another release
        return False
    return all(hashlib.sha256(data).hexdigest() == artifacts[file]["sha256"] for file, data in files.items())


def mark(models: Path, name: str, made_from: str) -> None:
    """Notes what models/name was made from."""
    (models / name / MARK).write_text(made_from)


def _files() -> Iterator[Path]:
    for package in ("statecell_examples", "statecell_export", "statecell"):
        spec = find_spec(package)
        assert spec is not None, package
        for folder in spec.submodule_search_locations or ():
            yield from sorted(p for p in Path(folder).rglob("*") if p.suffix in (".py", ".pt", ".txt", ".csv"))
