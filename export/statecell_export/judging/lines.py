"""The line of the user's own code that is being run."""

import traceback
from pathlib import Path

import torch

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent.parent)


def asking() -> str:
    """As file:line: code; "" where PyTorch's own code asks, as for packed sequences."""
    own = (f"{_OURS}/", *(f"{_TORCH}/{part}" for part in ("utils/", "_compile", "_dynamo/", "_tensor", "_ops", "overrides")))
    frames = [frame for frame in traceback.extract_stack() if not any(part in frame.filename for part in own)]
    if frames[-1].filename.startswith(_TORCH):
        return ""
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
