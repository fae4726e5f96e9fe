"""A file of weights, as torch.save or safetensors wrote it, read without running any code of it."""

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from statecell_export.errors import CheckpointError

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
"""What torch.load calls a class or function that a checkpoint asks for."""
_SAVE = "torch.save(module.state_dict(), path)"
_EMPTY = "is empty: what wrote it was interrupted, or the copy was"
_OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; get it with: git lfs pull",
    b"<": "is a web page, not a file of weights; download the file itself",
}
"""What else people have under such a name, by how it begins."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""By the names of https://github.com/huggingface/safetensors#format."""


def read(path: Path) -> Any:
    """All that the file holds. Raises CheckpointError, which says what it is instead and what to do about it."""
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd about the file; what is wrong with it is raised
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder, expected a file of weights in it") from None
    except Exception as error:  # a file that is no checkpoint can make torch.load raise anything
        raise CheckpointError(f"{path} {_unreadable(path, error)}") from error


def _safetensors(content: bytes) -> dict[str, Tensor]:
    """Eight bytes say how long the header is; it says of each tensor its dtype, its shape and where in the rest it lies."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    body = bytearray(content[start:])
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            if not 0 <= first <= last <= len(body):
                raise ValueError(f"{name} lies beyond the end")
            data = (
                torch.frombuffer(body, dtype=torch.uint8, offset=first, count=last - first) if last > first else torch.empty(0)
            )
            weights[name] = data.view(dtype).reshape(shape).clone() if last > first else torch.empty(shape, dtype=dtype)
    return weights


def _unreadable(path: Path, error: Exception) -> str:
    """What the file is, and what to do."""
    if asked := _GLOBAL.search(str(error)):
        return _with_objects(path, asked[1])
    with path.open("rb") as file:
        begins = file.read(64)
    for start, told in _OTHERS.items():
        if begins.lstrip().startswith(start):
            return told
    if path.suffix == ".safetensors":
        return f"is no whole .safetensors file ({error}); copy it again, or save the weights anew: {_SAVE}"
    return (_archive(path) or f"is no checkpoint that can be read as tensors; save one by {_SAVE}") if begins else _EMPTY


def _archive(path: Path) -> str:
    """What an archive that PyTorch does not read is; "" for what is none."""
    try:
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            whole = file.read(2) != b"PK"
        return "" if whole else f"is damaged: it ends too early; copy it again, or save it anew: {_SAVE}"
    if any("/code/" in name for name in names):
        return (
            "is TorchScript, whose code is not read; save its weights alone: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pt')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            "holds NumPy's arrays; save them as tensors: torch.save({name: torch.from_numpy(array) for name, array in "
            f"numpy.load({str(path)!r}).items()}}, 'weights.pt')"
        )
    return ""


def _with_objects(path: Path, asked: str) -> str:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # of the format before 2020
        names = [asked]
    shown = ", ".join(sorted(names))
    if any(name.startswith("torch.nn.modules.") for name in names):
        return (
            f"is a whole module ({shown}), which cannot be read without running code from the file; where its class can be "
            f"imported, save its weights alone: {_SAVE}. Of a file that you trust: {_trusted(path)}"
        )
    return (
        f"holds {shown} beside its tensors, which is not read from a file that may come from anyone; save the weights alone: "
        f"{_SAVE}. Of a file that you trust: {_trusted(path, '[KEY]')}, with the KEY under which they lie"
    )


def _trusted(path: Path, key: str = ".state_dict()") -> str:
    return f"torch.save(torch.load({str(path)!r}, map_location='cpu', weights_only=False){key}, 'weights.pt')"
