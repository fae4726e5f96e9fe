"""What an export made, and what was proven of it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from statecell.spec import ModelSpec


@dataclass(frozen=True)
class Proof:
    """The outcome of a verification.

    worst: artifact -> output -> the largest error over all cases, relative to the reference's largest magnitude (at least 1).
    tolerance: what was allowed in the case that came nearest to it. own_error: the worst error of the module itself, in its own
    arithmetic, against the same reference.
    """

    streamable: bool
    reason: str
    reference: str  # the dtype in which the module itself was run
    cases: int
    worst: dict[str, dict[str, float]]
    tolerance: float
    own_error: float

    @property
    def worst_error(self) -> float:
        return max((error for outputs in self.worst.values() for error in outputs.values()), default=0.0)


@dataclass(frozen=True)
class Report:
    """What `export` returns and writes as report.json.

    path: the version's folder. recipe: how the graphs were made. form: the number format.
    accuracy: artifact -> output -> worst error against the module as it was given, before its weights were rounded to the form.
    ranges: the whole numbers that the example's inputs held. assumptions: what the proof rests on, a sentence each: what was
    drawn, and how each state was found. artifacts: file name -> its size and sha256.
    """

    spec: ModelSpec
    path: Path
    recipe: str
    form: str
    proof: Proof
    accuracy: dict[str, dict[str, float]]
    ranges: dict[str, tuple[int, int]]
    artifacts: dict[str, dict[str, Any]]
    versions: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The sha256 of the first artifact: model.onnx where there is one."""
        return str(next(iter(self.artifacts.values()))["sha256"])

    def to_json(self) -> str:
        fields = asdict(self) | {"spec": self.spec.to_dict(), "path": str(self.path), "worst_error": self.proof.worst_error}
        return json.dumps(fields, indent=2) + "\n"


def describe(path: Path) -> dict[str, Any]:
    """An artifact's size and digest."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def versions() -> dict[str, str]:
    """What an artifact was made and proven with."""
    return {package: version(package) for package in ("torch", "onnx", "onnxruntime")}
