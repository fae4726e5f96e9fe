"""PyTorch's warnings that tell the user of an export nothing: every one of them is answered by the verification."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import mha
from torch.jit._trace import TracerWarning


@contextmanager
def quiet() -> Iterator[None]:
    """Neither TorchScript's deprecation, nor what a trace may bake in, nor that oneDNN lacks projections."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=r"torch\.|statecell_export\.")
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        warnings.filterwarnings("ignore", category=TracerWarning)
        fast = mha.get_fastpath_enabled()
        mha.set_fastpath_enabled(False)  # attention in one operation that no exporter knows
        try:
            yield
        finally:
            mha.set_fastpath_enabled(fast)
