"""Repository: the models of a folder, `<name>/<version>/model.onnx`, loaded and running."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from statecell_server.config import Config
from statecell_server.errors import ModelNotFound, SnapshotMismatch, StatecellError
from statecell_server.runner import Runner
from statecell_server.runtime import LoadError, Runtime
from statecell_server.store import StateStore

log = logging.getLogger(__name__)


class Repository:
    """Every version of every model in the folder, by name."""

    def __init__(self, config: Config, store: StateStore | None = None, owner: str = "") -> None:
        """Loads all of them. `owner`: this server's mark in what it writes to the store. Raises LoadError."""
        self._config = config
        self._store = store
        self._owner = owner
        self._runners: dict[str, dict[str, Runner]] = {}
        self._idle: dict[tuple[str, str], Path] = {}  # versions that were replaced and unloaded
        self._refused: dict[Path, int] = {}  # files that could not be loaded, and when they were last changed
        self._loading = asyncio.Lock()
        for path in self._paths():
            self._add(self._load(path))
        if not self._runners:
            raise LoadError(f"there is no model in {config.models}: expected <name>/<version>/model.onnx")

    def _paths(self) -> list[Path]:
        return sorted(self._config.models.glob("*/*/model.onnx"))

    def _load(self, path: Path) -> Runner:
        name, version = path.parts[-3:-1]
        if not version.isdigit():
            raise LoadError(f"{path.parent} is not a version: its name must be a number, as in {name}/1")
        return Runner(name, version, Runtime(path, self._config.threads), self._config, self._store, self._owner)

    def _add(self, runner: Runner) -> None:
        self._runners.setdefault(runner.name, {})[runner.version] = runner
        self._idle.pop((runner.name, runner.version), None)

    def __iter__(self) -> Iterator[Runner]:
        for versions in list(self._runners.values()):
            yield from list(versions.values())

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

    async def holding(self, name: str, version: str, digest: str) -> Runner:
        """Where a session of this digest goes on: its own version, or another one of the same artifact.

        A version that was unloaded is loaded again. Raises ModelNotFound, SnapshotMismatch.
        """
        await self.wake(name, version)
        for runner in sorted(self._runners.get(name, {}).values(), key=lambda r: r.version != version):
            if runner.runtime.digest == digest:
                return runner
        here = self.get(name, version)
        raise SnapshotMismatch(
            f"the session is of {name!r} with digest {digest[:12]}, version {here.version} here has {here.runtime.digest[:12]}",
            field="digest",
            got=digest,
            expected=here.runtime.digest,
        )

    async def wake(self, name: str, version: str) -> None:
        """Loads the version again, if it was unloaded and is still in the folder."""
        path = self._idle.get((name, version))
        if path is not None and path.exists():
            await self._bring(path)

    async def refresh(self, in_use: Callable[[Runner], bool]) -> bool:
        """Takes new versions in, and unloads those that are older than the newest and not in use. Whether any changed."""
        before = list(self)
        for path in self._paths():
            name, version = path.parts[-3:-1]
            if version not in self._runners.get(name, {}) and (name, version) not in self._idle:
                await self._bring(path)
        for versions in list(self._runners.values()):
            newest = max(versions, key=int)
            for version, runner in list(versions.items()):
                if version != newest and not in_use(runner):
                    del versions[version]
                    self._idle[runner.name, version] = self._config.models / runner.name / version / "model.onnx"
                    await asyncio.to_thread(runner.stop)
                    log.info("unloaded %s version %s: %s has replaced it", runner.name, version, newest)
        return before != list(self)

    async def _bring(self, path: Path) -> None:
        """A version that cannot be loaded is logged, and tried again when its file has changed."""
        async with self._loading:
            name, version = path.parts[-3:-1]
            changed = path.stat().st_mtime_ns
            if version in self._runners.get(name, {}) or self._refused.get(path) == changed:
                return
            try:
                runner = await asyncio.to_thread(self._load, path)
            except (LoadError, StatecellError) as error:
                self._refused[path] = changed
                log.error("%s", error)
            else:
                runner.start()
                self._add(runner)
                log.info("loaded %s version %s", name, version)
