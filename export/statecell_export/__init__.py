"""Export recurrent PyTorch models to ONNX and TorchScript with their state as inputs and outputs, and prove the export."""

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
