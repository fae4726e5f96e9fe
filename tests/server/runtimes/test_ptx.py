"""The PTX that the server carries is what its sources compile to."""

from pathlib import Path

import pytest

from tests.server.runtimes.ptx import SOURCES, compile_ptx, nvrtc


@pytest.mark.skipif(not nvrtc(), reason="NVIDIA's NVRTC is not installed: pip install -r requirements-dev.txt")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_ptx_is_what_the_source_compiles_to(source: Path, tmp_path: Path) -> None:
    compile_ptx(source, tmp_path / "made.ptx")
    made = (tmp_path / "made.ptx").read_bytes()
    assert made == source.with_suffix(".ptx").read_bytes(), "make it anew: python -m tests.server.runtimes.ptx"
