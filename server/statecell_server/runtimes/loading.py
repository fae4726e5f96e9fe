"""Loading: which runtime takes a version's folder, and on which device."""

from pathlib import Path
from typing import TYPE_CHECKING

from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.runtimes.runtime import LoadError, Runtime

if TYPE_CHECKING:  # each is imported where it is chosen: what it stands on may not be installed
    from statecell_server.runtimes.onnx import OnnxRuntime


def load(folder: Path, runtime: str, device: Device, config: Config) -> Runtime:
    """The artifact of the folder that the runtime takes, on the device. Raises LoadError."""
    if device.kind == "auto":
        return _load_anywhere(folder, runtime, config)
    if runtime == "onnxruntime":
        try:
            return _onnx(device, config)(folder / "model.onnx", config.threads, device, config.device_memory)
        except ImportError as error:
            raise LoadError(
                f"{folder} is to have its states in the graph, and there is no onnx here: pip install 'statecell-server[gpu]', "
                "or pip install onnx for a server on the CPU"
            ) from error
    if device.kind != "cpu":
        raise LoadError(f"{folder} is to run in TorchScript, which is here for the CPU only: --device {folder.parent.name}=cpu")
    try:
        from statecell_server.runtimes.torchscript import TorchScriptRuntime
    except ImportError as error:
        raise LoadError(
            f"{folder} is to run in TorchScript, and there is no torch here: pip install 'statecell-server[torchscript]'"
        ) from error
    return TorchScriptRuntime(folder / "model.pt", config.threads)


def _onnx(device: Device, config: Config) -> "type[OnnxRuntime]":
    if config.state_arena == "graph" or (config.state_arena == "auto" and device.kind == "cuda"):
        from statecell_server.runtimes.onnx_graph import GraphRuntime

        return GraphRuntime
    from statecell_server.runtimes.onnx import OnnxRuntime

    return OnnxRuntime


def _load_anywhere(folder: Path, runtime: str, config: Config) -> Runtime:
    """On the first GPU if it works, else on the CPU; its note says why."""
    device = Device("cuda")
    try:
        loaded = load(folder, runtime, device, config)
    except LoadError as error:
        loaded = load(folder, runtime, Device(), config)
        loaded.note = f"--device auto took the CPU: {error}"
    else:
        loaded.note = "; ".join(filter(None, (f"--device auto took {device}: it works", loaded.note)))
    return loaded
