"""A model without a batch axis runs one session at a time."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from statecell_server.config import Config
from statecell_server.engine.engine import Engine
from statecell_server.errors import InvalidRequest

from tests.server.runtimes.test_device_arena import without_batch

X = {"x": np.ones((2, 3), np.float32)}


async def test_a_message_of_two_sessions_is_refused_and_moves_neither(tmp_path: Path) -> None:
    (tmp_path / "alone" / "1").mkdir(parents=True)
    onnx.save(without_batch(), tmp_path / "alone" / "1" / "model.onnx")
    engine = Engine(Config(models=tmp_path))
    await engine.start()
    try:
        ids = [(await engine.lifecycle.create("alone")).id for _ in range(2)]
        with pytest.raises(InvalidRequest, match="one session at a time"):
            engine.steps.submit(ids, X, [0, 0], lambda _: None)
        for session_id in ids:
            outputs, index = await engine.steps.step(session_id, X, 0)
            assert (outputs["y"][0, 0], index) == (1.5, 1)
            assert (await engine.lifecycle.snapshot(session_id)).states["s"][0, 0] == 2.0
            repeated, _ = await engine.steps.step(session_id, X, 0)
            assert np.array_equal(repeated["y"], outputs["y"])
    finally:
        await engine.stop()
