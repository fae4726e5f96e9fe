"""Repository: the models of a folder, `<name>/<version>/model.onnx`, loaded and running."""

from collections.abc import Iterator
from pathlib import Path

from statecell_server.config import Config
from statecell_server.errors import ModelNotFound
from statecell_server.runner import Runner
from statecell_server.runtime import LoadError, Runtime


class Repository:
    """Every version of every model in the folder, by name."""

    def __init__(self, config: Config) -> None:
        """Loads all of them. Raises LoadError."""
        self._runners: dict[str, dict[str, Runner]] = {}
        for path in sorted(config.models.glob("*/*/model.onnx")):
            name, version = path.parts[-3:-1]
            if not version.isdigit():
                raise LoadError(f"{path.parent} is not a version: its name must be a number, as in {name}/1")
            self._runners.setdefault(name, {})[version] = self._load(path, name, version, config)
        if not self._runners:
            raise LoadError(f"there is no model in {config.models}: expected <name>/<version>/model.onnx")

    @staticmethod
    def _load(path: Path, name: str, version: str, config: Config) -> Runner:
        return Runner(
            name,
            version,
            Runtime(path, config.threads),
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
