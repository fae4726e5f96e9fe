"""Repository: the models of a folder, `<name>/<version>/{model.onnx,model.pt}`, loaded and running."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.errors import ModelNotFound
from statecell_server.runner import Runner
from statecell_server.runtime import LoadError, Runtime

if TYPE_CHECKING:
    from statecell_server.onnx_runtime import OnnxRuntime


log = logging.getLogger(__name__)


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
        from statecell_server.torchscript_runtime import TorchScriptRuntime
    except ImportError as error:
        raise LoadError(
            f"{folder} is to run in TorchScript, and there is no torch here: pip install 'statecell-server[torchscript]'"
        ) from error
    return TorchScriptRuntime(folder / "model.pt", config.threads)


def _onnx(device: Device, config: Config) -> "type[OnnxRuntime]":
    if config.state_arena == "graph" or (config.state_arena == "auto" and device.kind == "cuda"):
        from statecell_server.graph_runtime import GraphRuntime

        return GraphRuntime
    from statecell_server.onnx_runtime import OnnxRuntime

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
        loaded.note = f"--device auto took {device}: it works"
    return loaded


class Repository:
    """Every version of every model in the folder, by name."""

    def __init__(self, config: Config) -> None:
        """Loads all of them. Raises LoadError."""
        self._runners: dict[str, dict[str, Runner]] = {}
        for folder in sorted({path.parent for path in config.models.glob("*/*/model.*")}):
            name, version = folder.parts[-2:]
            if not version.isdigit():
                raise LoadError(f"{folder} is not a version: its name must be a number, as in {name}/1")
            self._runners.setdefault(name, {})[version] = self._load(folder, name, version, config)
        if not self._runners:
            raise LoadError(f"there is no model in {config.models}: expected <name>/<version>/model.onnx or model.pt")
        for option, names in (("--runtime", config.runtimes), ("--device", config.devices)):
            for name in names:
                if name not in self._runners:
                    raise LoadError(f"{option} names {name!r}, which is no model; there are {', '.join(sorted(self._runners))}")

    @staticmethod
    def _load(folder: Path, name: str, version: str, config: Config) -> Runner:
        chosen = config.runtimes.get(name) or ("onnxruntime" if (folder / "model.onnx").exists() else "torchscript")
        runtime = load(folder, chosen, config.devices.get(name, config.device), config)
        variance = config.batch_variance
        if variance == "auto":
            variance = "alone" if runtime.device == "cpu" else "pad"
        runner = Runner(
            name,
            version,
            runtime,
            state_memory=config.state_memory,
            max_batch=config.max_batch,
            max_queue=config.max_queue,
            variance=variance,
        )
        log.info("%s/%s runs in %s on %s%s", name, version, runtime.name, runtime.device, runner.note and f": {runner.note}")
        return runner

    def __iter__(self) -> Iterator[Runner]:
        for versions in self._runners.values():
            yield from versions.values()

    def get(self, name: str, version: str = "") -> Runner:
        """The version, or the newest. Raises ModelNotFound."""
        versions = self._runners.get(name)
        if not versions:
            raise ModelNotFound(f"there is no model {name!r}; there are {', '.join(sorted(self._runners))}", model=name)
        runner = versions.get(version or max(versions, key=int))
        if runner is None:
            have = ", ".join(sorted(versions, key=int))
            raise ModelNotFound(f"model {name!r} has no version {version!r}; it has {have}", model=name, version=version)
        return runner
