"""TorchScriptRuntime: `model.pt` in PyTorch, for models that only TorchScript can express. The only place that knows torch."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from statecell.spec import SPEC_KEY, TensorSpec
from statecell.tensor import Array

from statecell_server.arena.plan import Plan
from statecell_server.runtimes import artifact
from statecell_server.runtimes.runtime import LoadError, RunError, Runtime, read_spec


class TorchScriptRuntime(Runtime):
    """On the CPU, with `threads` threads within a run (of all models together: PyTorch has one setting a process)."""

    name = "torchscript"

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Raises LoadError."""
        super().__init__()
        torch.set_num_threads(threads)
        carried = {SPEC_KEY: ""}
        try:
            content = artifact.read(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self._module = torch.jit.load(io.BytesIO(content), "cpu", carried).eval()  # type: ignore[no-untyped-call]
        except Exception as error:
            raise LoadError(f"{path} cannot be loaded: {error}") from error
        self.digest = hashlib.sha256(content).hexdigest()
        self.device = "cpu"
        text: str | bytes = carried[SPEC_KEY]
        self.spec = read_spec((text.decode() if isinstance(text, bytes) else text) or None, path)

    def _bind(self, sides: Sequence[Sequence[TensorSpec]], arrays: Sequence[Sequence[Array]]) -> Any:  # noqa: ARG002
        return [torch.from_numpy(array) for side in arrays[:2] for array in side]

    def run(self, plan: Plan) -> None:
        try:
            # Not inference_mode: a traced module may make views of its parameters, which that mode refuses.
            with torch.no_grad():
                results = self._module(*plan.bound)
        except Exception as error:
            raise RunError(str(error)) from error
        results = results if isinstance(results, tuple) else (results,)
        expected = (*plan.outputs, *plan.next_states)
        if len(results) != len(expected):
            raise RunError(f"the module gave {len(results)} results, its spec says {len(expected)}")
        for array, result in zip(expected, results, strict=True):
            got = result.numpy() if isinstance(result, torch.Tensor) else None
            if got is None or got.shape != array.shape or got.dtype != array.dtype:
                said = type(result).__name__ if got is None else f"{got.dtype}{list(got.shape)}"
                raise RunError(f"the module gave {said} where its spec says {array.dtype}{list(array.shape)}")
            np.copyto(array, got)
