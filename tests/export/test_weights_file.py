"""A file of weights in whatever form people have it: read, or named for what it is with what to do about it."""

import collections
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from statecell_export.checkpoint import load
from statecell_export.errors import CheckpointError
from statecell_export.quiet import quiet
from torch import Tensor, nn


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.ModuleDict({"gru": nn.GRU(2, 3), "head": nn.Linear(3, 1)})


def as_safetensors(weights: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Written by the format's own description: https://github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {"__metadata__": metadata}
    body, names = b"", {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.float64: "F64"}
    for name, tensor in weights.items():
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_safetensors_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = {f"model.{key}": value.to(dtype) for key, value in net().state_dict().items()}
    path = tmp_path / "a.safetensors"
    path.write_bytes(as_safetensors(weights | {"steps": torch.tensor(7), "none": torch.empty(0)}, {"format": "pt"}))
    module = nn.ModuleDict({"gru": nn.GRU(2, 3), "head": nn.Linear(3, 1)})
    load(module, path)
    for key, value in module.state_dict().items():
        assert torch.equal(value, weights[f"model.{key}"].float())


@pytest.mark.parametrize("cut", [3, 40, -5])
def test_safetensors_that_are_not_whole_are_told(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(as_safetensors(net().state_dict(), {})[:cut])
    with pytest.raises(CheckpointError, match=r"no whole \.safetensors file"):
        load(net(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
        (b"\n<html><body>Sign in", "is a web page"),
        (b"PK\x03\x04\x00\x00", "is damaged: it ends too early"),
        (b"just words", "is no checkpoint that can be read as tensors"),
    ],
)
def test_a_file_that_is_something_else_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(net(), path)


def follow_advice(error: CheckpointError, folder: Path, monkeypatch: pytest.MonkeyPatch, key: str = "") -> None:
    """Runs the line of Python that the message gives, as a person who trusts the file would, and reads what came of it."""
    monkeypatch.chdir(folder)
    line = next(part for part in str(error).replace("with the KEY", "\n").split("torch.save(")[-1:]).split("'weights.pt')")[0]
    exec(f"torch.save({line.replace('[KEY]', key)}'weights.pt')", {"torch": torch, "numpy": np})
    load(net(), folder / "weights.pt")


@pytest.mark.parametrize("beside", [collections.deque([1]), np.float32(0.5), Path("runs/3")])
def test_the_line_to_get_at_weights_beside_other_objects_works(
    beside: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    torch.save({"net": net().state_dict(), "beside": beside}, path)
    with pytest.raises(CheckpointError, match="beside its tensors") as refused:
        load(net(), path)
    follow_advice(refused.value, tmp_path, monkeypatch, "['net']")


def test_the_line_to_get_at_the_weights_of_torchscript_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = nn.Sequential(nn.Linear(2, 3))
    with quiet():
        torch.jit.script(inner).save(tmp_path / "scripted.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match="is TorchScript") as refused:
        load(net(), tmp_path / "scripted.pt")
    with pytest.raises(CheckpointError, match="holds nothing that ModuleDict has"), quiet():  # which is so: it is another's
        follow_advice(refused.value, tmp_path, monkeypatch)


def test_the_line_to_get_at_the_weights_in_an_archive_of_numpys_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in net().state_dict().items()})
    with pytest.raises(CheckpointError, match="holds NumPy's arrays") as refused:
        load(net(), tmp_path / "w.npz")
    follow_advice(refused.value, tmp_path, monkeypatch)


def test_the_line_to_take_one_of_several_sets_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = net().state_dict()
    torch.save({"nets": {"student": weights, "teacher": {key: value + 1 for key, value in weights.items()}}}, tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match="several sets") as refused:
        load(net(), tmp_path / "t.pt")
    follow_advice(refused.value, tmp_path, monkeypatch)
