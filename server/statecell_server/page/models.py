"""What the page says of a model: its spec as it is served, and what its export has proven."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from statecell.spec import StateSpec, TensorSpec

from statecell_server.batching.runner import Runner

MOST_REPORT = 1 << 20
"""Bytes of a report.json that is read."""


def line(runner: Runner) -> dict[str, Any]:
    """What the list of models has of it."""
    return {
        "name": runner.name,
        "version": runner.version,
        "streamable": runner.spec.streamable,
        "sessions": len(runner.sessions),
    }


def describe(runner: Runner) -> dict[str, Any]:
    """All but the proof."""
    spec, sharing = runner.spec, runner.sharing
    return line(runner) | {
        "runtime": runner.runtime.name,
        "device": runner.runtime.device,
        "digest": runner.runtime.digest,
        "note": runner.note,
        "reason": spec.reason,
        "max_batch": sharing.max_batch,
        "row_bytes": runner.arena.row_bytes,
        "state_limit_bytes": runner.arena.budget * runner.arena.row_bytes,
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
        "states": [_tensor(state) for state in spec.states],
    }


def _tensor(tensor: TensorSpec | StateSpec) -> dict[str, Any]:
    return asdict(tensor)


def proof(folder: Path, digest: str) -> dict[str, Any]:
    """What report.json in the version's folder says; `why` where there is nothing to say. For a thread.

    Whoever writes to the folder writes the report too: it is shown as it is, and only where it is about the served file.
    """
    try:
        with (folder / "report.json").open("rb") as file:
            content = file.read(MOST_REPORT + 1)
    except FileNotFoundError:
        return {"why": "there is no report.json beside the model: nothing is known of a proof"}
    except OSError as error:
        return {"why": f"report.json cannot be read: {error.strerror}"}
    if len(content) > MOST_REPORT:
        return {"why": f"report.json has more than {MOST_REPORT} bytes"}
    try:
        report = json.loads(content)
        digests = {name: artifact["sha256"] for name, artifact in report["artifacts"].items()}
        found = {
            "reference": str(report["proof"]["reference"]),
            "cases": int(report["proof"]["cases"]),
            "worst_error": float(report["worst_error"]),
            "tolerance": float(report["proof"]["tolerance"]),
            "own_error": float(report["proof"]["own_error"]),
            "recipe": str(report["recipe"]),
            "form": str(report["form"]),
            "versions": {str(name): str(version) for name, version in report["versions"].items()},
            "assumptions": [str(text) for text in report["assumptions"]],
            "notes": [str(text) for text in report["notes"]],
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"why": "report.json is not what statecell-export writes"}
    if digest not in digests.values():
        return {"why": "report.json is about another file than the one that is served"}
    return found
