"""Export recurrent PyTorch models to ONNX and TorchScript with their state as inputs and outputs, and prove the export."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statecell_export.adopting.adopt import adopt
    from statecell_export.artifacts import verify
    from statecell_export.errors import (
        CheckpointError,
        ExampleError,
        ExportError,
        GraphRefusedError,
        ModuleRefusedError,
        VerificationError,
    )
    from statecell_export.exporter import export
    from statecell_export.report import Proof, Report

__all__ = [
    "CheckpointError",
    "ExampleError",
    "ExportError",
    "GraphRefusedError",
    "ModuleRefusedError",
    "Proof",
    "Report",
    "VerificationError",
    "adopt",
    "export",
    "verify",
]

_ELSEWHERE = {"adopt": "adopting.adopt", "export": "exporter", "verify": "artifacts", "Proof": "report", "Report": "report"}


def __getattr__(name: str) -> Any:
    # When first asked for: PyTorch takes seconds to import, and the command's help and completion do without it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
