"""Repository: the models of a folder, `<name>/<version>/{model.onnx,model.pt}`, loaded and running."""

from collections.abc import Iterator
from pathlib import Path

from statecell_server.config import Config
from statecell_server.errors import ModelNotFound
from statecell_server.runner import Runner
from statecell_server.runtime import LoadError, Runtime


def load(folder: Path, runtime: str, threads: int) -> Runtime:
    """The artifact of the folder that the runtime takes. Raises LoadError."""
    if runtime == "onnxruntime":
        from statecell_server.onnx_runtime import OnnxRuntime

        return OnnxRuntime(folder / "model.onnx", threads)
    try:
        from statecell_server.torchscript_runtime import TorchScriptRuntime
    except ImportError as error:
        raise LoadError(
            f"{folder} is to run in TorchScript, and there is no torch here: pip install 'statecell-server[torchscript]'"
        ) from error
    return TorchScriptRuntime(folder / "model.pt", threads)


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
        for name in config.runtimes:
            if name not in self._runners:
                raise LoadError(f"--runtime names {name!r}, which is no model; there are {', '.join(sorted(self._runners))}")

    @staticmethod
    def _load(folder: Path, name: str, version: str, config: Config) -> Runner:
        chosen = config.runtimes.get(name) or ("onnxruntime" if (folder / "model.onnx").exists() else "torchscript")
        return Runner(
            name,
            version,
            load(folder, chosen, config.threads),
            state_memory=config.state_memory,
            max_batch=config.max_batch,
            max_queue=config.max_queue,
        )

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
