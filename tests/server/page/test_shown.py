"""What the page says of proofs, and what it draws of states."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from statecell.spec import StateSpec
from statecell_server.page.models import MOST_REPORT, proof
from statecell_server.page.picture import ELEMENTS, picture

REPORT = {
    "proof": {"reference": "float64", "cases": 49, "tolerance": 1e-6, "own_error": 0.0},
    "worst_error": 1e-7,
    "recipe": "direct",
    "form": "float32",
    "versions": {"torch": "2"},
    "assumptions": ["zeros"],
    "notes": [],
    "artifacts": {"model.onnx": {"bytes": 1, "sha256": "abc"}},
}


def test_a_proof_is_that_of_the_served_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    assert proof(tmp_path, "abc")["cases"] == 49
    assert proof(tmp_path, "abd") == {"why": "report.json is about another file than the one that is served"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no report.json"),
        (b"\xff\xfe", "is not what statecell-export writes"),
        (b"[" * 100_000, "is not what statecell-export writes"),
        (b'{"artifacts": []}', "is not what statecell-export writes"),
        (b"[]", "is not what statecell-export writes"),
        (b" " * (MOST_REPORT + 1), "has more than"),
    ],
)
def test_what_is_no_report_is_no_proof(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    assert why in proof(tmp_path, "abc")["why"]


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((2, "batch", 20), 2, 20),
        (("batch", 7), 1, 7),
        (("batch",), 1, 1),
        ((3,), 1, 3),
        (("batch", 4, 5), 4, 5),
    ],
)
def test_a_picture_is_one_row_of_the_batch(shape: tuple[int | str, ...], rows: int, columns: int) -> None:
    spec = StateSpec("h", "h_n", "float32", shape)
    state = np.random.default_rng(0).standard_normal(spec.sized(batch=3)).astype(np.float32)
    (drawn,) = picture([spec], [state], 1)
    expected = state if spec.batch_axis is None else state.take(1, spec.batch_axis)
    assert (drawn["rows"], drawn["columns"], drawn["every"]) == (rows, columns, 1)
    assert np.array_equal(np.frombuffer(base64.b64decode(drawn["data"]), "<f4"), expected.reshape(-1))


@pytest.mark.parametrize("shape", [(2, "batch", 100_000), ("batch", 100_000, 1), (10_000, "batch", 10), (1, "batch", 2049)])
def test_a_picture_has_its_size_however_large_the_state(shape: tuple[int | str, ...]) -> None:
    spec = StateSpec("h", "h_n", "float32", shape)
    (drawn,) = picture([spec], [spec.fresh(2)], 0)
    assert 0 < drawn["rows"] * drawn["columns"] <= ELEMENTS
    assert len(base64.b64decode(drawn["data"])) == 4 * drawn["rows"] * drawn["columns"]
    assert drawn["every"] > 1
