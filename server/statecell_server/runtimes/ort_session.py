"""ONNX Runtime's own sessions and values on a device. The only place that knows onnxruntime."""

import contextlib
import io
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from statecell.spec import TensorSpec
from statecell.tensor import Array

from statecell_server.device import Device
from statecell_server.errors import StateBudgetExceeded
from statecell_server.runtimes import cuda, driver
from statecell_server.runtimes.runtime import DeviceError, DeviceLost, RunError

# Read when cuBLAS starts: with one workspace of a fixed size for each stream, it gives the same bits for the same run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Since 1.29 its Linux wheels report their use to their maker, unless they are told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

ort.set_default_logger_severity(3)

log = logging.getLogger(__name__)


NOWHERE = "/dev/null/weights beside the model's file are not taken"
"""A folder that cannot be; what ONNX Runtime says of it has it in it."""

FULL = (
    "Failed to allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "is smaller than requested bytes",
    "has no room for",
)
"""How ONNX Runtime, CUDA, cuBLAS, cuDNN and DeviceMemory say that the device has no memory left for a run."""


DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    **{f"tensor({name})": name for name in ("int64", "int32", "int16", "int8", "uint8", "bool")},
}
"""ONNX Runtime's names of the dtypes that a spec may have."""


class Buffer(NamedTuple):
    """Memory of the host or of a device, as a binding wants it."""

    kind: str
    device_id: int
    dtype: Any
    shape: Sequence[int]
    address: int


def host(array: Array) -> Buffer:
    """The array's own memory: it must be contiguous, and outlive the buffer."""
    assert array.flags.c_contiguous, "a buffer is one piece"
    return Buffer("cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def blamed(error: Exception, device: Device) -> Exception:
    """Whose fault it is that a run failed: the device is asked whether it is broken, before the input is held to blame."""
    if device.kind != "cpu":
        if broken := driver.fault(device.index):
            return DeviceLost(f"{device} is broken for this process ({broken}); ONNX Runtime says: {error}")
        if any(words in str(error) for words in FULL):
            return StateBudgetExceeded(
                f"{device} has no room left for the intermediate results of a run: {error}; "
                "serve with a smaller --max-batch or --state-memory, or a larger --device-memory"
            )
    return RunError(str(error))


def open_session(content: bytes, device: Device, *, threads: int = 1, memory: int = 0, stream: int = 0) -> ort.InferenceSession:
    """A session of the model `content` on the device and nowhere else.

    `memory`: bytes that ONNX Runtime may take on a GPU for weights and intermediate results; 0: as much as it needs.
    `stream`: the CUDA stream that its runs follow; 0: one of its own, which a run waits for.
    Raises DeviceError where the device cannot be used, and what ONNX Runtime raises where the model cannot be loaded.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A model is one file. Weights in others would be looked for where the server was started, and are in no digest.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    if device.kind == "cpu":
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    require(device)
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # for strays
    providers = [("CUDAExecutionProvider", cuda_options(device, memory, stream)), "CPUExecutionProvider"]
    session = ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise DeviceError(f"{device} cannot be used: ONNX Runtime took {session.get_providers()[0]}; what it logged says why")
    return session


def unlike(tensor: TensorSpec, kind: str, sizes: Sequence[int | str | None]) -> str:
    """How a graph's input or output, as ONNX Runtime tells its type and shape, is not the spec's tensor; "" where it may be.

    A graph need not tell a shape; one without axes may be one that is not told.
    """
    dtype = DTYPES.get(kind, kind)
    if dtype != tensor.dtype:
        return f"of {dtype}, its spec says {tensor.dtype}"
    ranks_differ = sizes and len(sizes) != len(tensor.shape)
    pairs = [] if ranks_differ or not sizes else zip(sizes, tensor.shape, strict=True)
    if ranks_differ or any(isinstance(size, int) and isinstance(said, int) and size != said for size, said in pairs):
        return f"of shape {list(sizes)}, its spec says {list(tensor.shape)}"
    return ""


def strays(ort_session: ort.InferenceSession, provider: str) -> str:
    """Which of the model's nodes run elsewhere than on `provider`, for it has no kernel for them; "" where all run there.

    The session must have been opened with session.record_ep_graph_assignment_info. A few nodes that compute shapes are usual.
    """
    placed = [(part.ep_name, node) for part in ort_session.get_provider_graph_assignment_info() for node in part.get_nodes()]
    away = sorted({node.op_type for name, node in placed if name != provider})
    count = sum(name != provider for name, _ in placed)
    return f"{count} of {len(placed)} nodes run on the CPU ({', '.join(away)})" if away else ""


def cuda_options(device: Device, memory: int, stream: int = 0) -> dict[str, str]:
    """Exact rather than fast: no TF32, whose products have 10 bits, and no algorithm that is chosen by a stopwatch."""
    options = {"device_id": str(device.index), "use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    options["arena_extend_strategy"] = "kSameAsRequested"  # the other takes up to twice what is asked for
    options |= {"user_compute_stream": str(stream)} if stream else {}
    return options | ({"gpu_mem_limit": str(memory)} if memory else {})


def require(device: Device) -> None:
    """Raises DeviceError where a GPU cannot be used, naming everything that is missing."""
    version = str(getattr(ort, "cuda_version", "") or "") if "CUDAExecutionProvider" in ort.get_available_providers() else ""
    if version:
        with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints; our standard output is for "listening on"
            ort.preload_dlls()
        log.debug("preload_dlls: %s", said.getvalue().strip())
    if lacks := cuda.missing(device.index, version):
        raise DeviceError(f"{device} cannot be used, what is missing: {'; '.join(lacks)}")


def run_once(ort_session: ort.InferenceSession, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
    """The outputs of these names, from the inputs by name. Raises RunError."""
    try:
        return list(ort_session.run(list(outputs), dict(inputs)))
    except Exception as error:
        raise RunError(str(error)) from error


class Binding:
    """The buffers of a run on the CPU, to be run any number of times."""

    def __init__(self, ort_session: ort.InferenceSession, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._ort_session = ort_session
        self._binding = ort_session.io_binding()
        for name, buffer in inputs.items():
            self._binding.bind_input(name, *buffer)
        for name, buffer in outputs.items():
            self._binding.bind_output(name, *buffer)

    def run(self) -> None:
        """From the inputs as they are now. Raises RunError."""
        try:
            self._ort_session.run_with_iobinding(self._binding)
        except Exception as error:
            raise RunError(str(error)) from error
