"""Loading: which runtime takes a version's folder, and on which device."""

from pathlib import Path

from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.runtimes import artifact, trial
from statecell_server.runtimes.runtime import DeviceError, LoadError, Runtime
from statecell_server.runtimes.stack import NotRecurrent

TRIED_ROWS = 16
"""Of the step by which --device auto chooses: most of what batching gains is there, and a small server has as many."""


def load(folder: Path, runtime: str, device: Device, config: Config) -> Runtime:
    """The artifact of the folder that the runtime takes, on the device. Raises LoadError."""
    if device.kind == "auto":
        return _load_anywhere(folder, runtime, config)
    if runtime == "onnxruntime":  # each is imported where it is chosen: what it stands on may not be installed
        return _onnx(folder / "model.onnx", device, config)
    if device.kind != "cpu":
        raise DeviceError(
            f"{folder} is to run in TorchScript, which is here for the CPU only: --device {folder.parent.name}=cpu"
        )
    path = folder / "model.pt"
    artifact.require_zip(path)  # before torch is imported, which takes seconds of everybody's time
    try:
        from statecell_server.runtimes.torchscript import TorchScriptRuntime
    except ImportError as error:
        raise LoadError(
            f"{folder} is to run in TorchScript, and there is no torch here: pip install 'statecell-server[torchscript]'"
        ) from error
    return TorchScriptRuntime(path, config.threads)


def _onnx(path: Path, device: Device, config: Config) -> Runtime:
    rest = _rest(device, config)
    if config.state_arena != "device" and (config.state_arena == "host" or device.kind != "cuda"):
        from statecell_server.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(path, config.threads, device, rest)
    from statecell_server.runtimes.onnx_device import DeviceRuntime
    from statecell_server.runtimes.recurrent import RecurrentRuntime

    if device.kind != "cuda":  # where its kernels would run in NumPy
        return DeviceRuntime(path, config.threads, device, rest)
    try:
        return RecurrentRuntime(path, config.threads, device, rest)
    except NotRecurrent as error:
        runtime = DeviceRuntime(path, config.threads, device, rest)
        runtime.note += f"; runs in ONNX Runtime, for {error}"
        return runtime


def _rest(device: Device, config: Config) -> int:
    """What --device-memory leaves for weights and intermediate results beside the states; 0: no limit. Raises LoadError."""
    if device.kind == "cpu" or not config.device_memory:
        return 0
    # While an arena doubles for the last time, the half that it was is there too.
    states = config.state_memory * 3 // 2 if config.state_arena != "host" else 0
    if config.device_memory <= states:
        raise DeviceError(
            f"--device-memory is {config.device_memory} bytes, and the states of --state-memory {config.state_memory} may take "
            f"{states} of them while they grow: give more, or a smaller --state-memory"
        )
    return config.device_memory - states


def _load_anywhere(folder: Path, runtime: str, config: Config) -> Runtime:
    """On the first GPU if it works and is the faster one, else on the CPU; its note says why. Raises LoadError."""
    device = Device("cuda")
    try:
        gpu = load(folder, runtime, device, config)
        on_gpu = trial.seconds(gpu, TRIED_ROWS)
    except LoadError as error:
        cpu = load(folder, runtime, Device(), config)
        cpu.note = f"--device auto took the CPU: {error}"
        return cpu
    cpu = load(folder, runtime, Device(), config)
    on_cpu = trial.seconds(cpu, TRIED_ROWS)
    taken, other = (cpu, gpu) if on_cpu < on_gpu else (gpu, cpu)
    times = sorted((on_gpu, on_cpu))
    said = f"a step of {TRIED_ROWS} rows takes {times[0] * 1e6:.0f} us there and {times[1] * 1e6:.0f} us on {other.device}"
    taken.note = "; ".join(filter(None, (f"--device auto took {taken.device}: {said}", taken.note)))
    return taken
