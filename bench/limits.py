"""ONNX Runtime alone: one thread, IO binding, nothing around it. `python -m bench.limits MODEL.onnx SECONDS`

Prints JSON: {"1x64": microseconds of a run of 1 time step and 64 rows, ...}, each the median over SECONDS,
and "own": the part of its core's time that it had.
"""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import onnxruntime as ort

RUNS = ((1, 1), (1, 16), (1, 64), (1, 256), (32, 16))
"""seq_len and batch."""
FEWEST = 5


def bound(ort_session: Any, seq_len: int, batch: int) -> Any:
    """A binding of all inputs, random, and all outputs to memory that stays where it is."""
    sizes = {"seq_len": seq_len, "batch": batch}
    random, binding = np.random.default_rng(0), ort_session.io_binding()
    for node in ort_session.get_inputs():
        array = random.standard_normal([sizes.get(size, size) for size in node.shape], np.float32) / 2
        binding.bind_ortvalue_input(node.name, ort.OrtValue.ortvalue_from_numpy(array))
    for node in ort_session.get_outputs():
        shape = [sizes.get(size, size) for size in node.shape]
        binding.bind_ortvalue_output(node.name, ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32))
    return binding


def timed(ort_session: Any, binding: Any, seconds: float) -> float:
    """The median run, in microseconds."""
    for _ in range(2):
        ort_session.run_with_iobinding(binding)
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < FEWEST or time.perf_counter() < end:
        began = time.perf_counter()
        ort_session.run_with_iobinding(binding)
        took.append(time.perf_counter() - began)
    return 1e6 * statistics.median(took)


def main(path: str, seconds: str) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    ort_session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    began = time.perf_counter(), time.process_time()
    found = {f"{t}x{b}": timed(ort_session, bound(ort_session, t, b), float(seconds)) for t, b in RUNS}
    found["own"] = (time.process_time() - began[1]) / (time.perf_counter() - began[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
