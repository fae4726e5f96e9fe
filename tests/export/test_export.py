"""The common case: one call, both artifacts, proven, with the spec inside."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from statecell.spec import SPEC_KEY, ModelSpec
from statecell_export import ExampleError, export
from statecell_export.torchscript import load
from torch import nn


def test_export_writes_both_artifacts_and_the_report_with_the_spec_inside(tmp_path: Path) -> None:
    report = export(nn.LSTM(10, 20, 2), torch.zeros(5, 3, 10), name="lstm", out=tmp_path)
    folder = tmp_path / "lstm" / "1"
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "model.pt", "report.json"]
    model = onnx.load(folder / "model.onnx")
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelSpec.from_json(properties[SPEC_KEY]) == report.spec == load(folder / "model.pt")[1]
    assert json.loads((folder / "report.json").read_text())["worst_error"] == report.proof.worst_error < 1e-6
    assert report.spec.streamable


def test_refused_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match=r"forward fails on x float32\[5, 3, 9\]"):
        export(nn.LSTM(10, 20), torch.zeros(5, 3, 9), name="lstm", out=tmp_path)
    assert list(tmp_path.iterdir()) == []
