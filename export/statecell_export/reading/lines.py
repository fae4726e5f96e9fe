"""Lines such as "x:float32[seq_len,batch,10]", which say of an input what a tensor cannot: its axes and its range."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from statecell.spec import SpecError, TensorSpec
from torch import Tensor
from torch.utils import _pytree as pytree

from statecell_export.errors import ExampleError

_LINE = re.compile(r"(?P<name>[^\[\]]+):(?P<dtype>\w+)\[(?P<shape>[\w\s,]*)\]\s*(?P<range>.*)")
_RANGE = re.compile(r"<\s*(?P<count>\d+)|(?P<least>-?[\d.]+(e-?\d+)?)\s*\.\.\s*(?P<most>-?[\d.]+(e-?\d+)?)")


@dataclass(frozen=True)
class Said:
    """What a line says."""

    spec: TensorSpec
    range: tuple[float, float] | None


def parse(line: str) -> TensorSpec:
    """ "x:float32[seq_len,batch,10]" as a TensorSpec. Raises ExampleError."""
    match = _matched(line)
    sizes = [size.strip() for size in match["shape"].split(",") if size.strip()]
    try:
        return TensorSpec(match["name"], match["dtype"], tuple(int(size) if size.isdigit() else size for size in sizes))
    except SpecError as error:
        raise ExampleError(f"example {line!r}: {error}") from None


def _matched(line: str) -> re.Match[str]:
    match = _LINE.fullmatch(line.strip())
    if match is None or (match["range"] and not _RANGE.fullmatch(match["range"])):
        raise ExampleError(
            f'example {line!r} cannot be read; write it as "x:float32[seq_len,batch,10]", and where its values have a range as '
            '"tokens:int64[batch,seq_len]<20" or "x:float32[seq_len,batch,10]0..1"'
        )
    return match


def parse_range(line: str) -> tuple[float, float] | None:
    """ "tokens:int64[batch,seq_len]<20" says (0, 19), "x:float32[batch,4]0..1" says (0, 1). Raises ExampleError."""
    text = _matched(line)["range"]
    said = _RANGE.fullmatch(text)
    if said is None:
        return None
    try:
        least, most = (0.0, float(said["count"]) - 1) if said["count"] else (float(said["least"]), float(said["most"]))
    except ValueError:
        raise ExampleError(f"example {line!r}: {text!r} is no range") from None
    if not least <= most:
        raise ExampleError(f"example {line!r}: {text!r} holds no value")
    return least, most


def typical(spec: TensorSpec, said: tuple[float, float] | None) -> Tensor:
    """A tensor of its shape and range, at a seq_len of 5 and a batch of 3."""
    dtype = torch.from_numpy(np.zeros(0, spec.dtype)).dtype
    size, generator = spec.sized(seq_len=5, batch=3), torch.Generator().manual_seed(1)
    if said is None:
        return torch.randn(size).to(dtype) if dtype.is_floating_point else torch.ones(size, dtype=dtype)
    return within(*said, size, generator, dtype)


def within(least: float, most: float, size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Random numbers from `least` to `most`."""
    if dtype.is_floating_point:
        return (least + (most - least) * torch.rand(size, generator=generator)).to(dtype)
    return torch.randint(int(least), int(most) + 1, size, generator=generator).to(dtype)


def drawn(example: Any, said: dict[int, Said]) -> Any:
    """`example` with a tensor for each line in it; what each says goes into `said`, by the tensor's id."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, TensorSpec) and not (isinstance(leaf, str) and _LINE.fullmatch(leaf.strip())):
            return leaf
        spec, range_ = (leaf, None) if isinstance(leaf, TensorSpec) else (parse(leaf), parse_range(leaf))
        tensor = typical(spec, range_)
        said[id(tensor)] = Said(spec, range_)
        return tensor

    return pytree.tree_map(one, example)
