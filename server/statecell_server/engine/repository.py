"""Repository: the models of a folder, `<name>/<version>/{model.onnx,model.pt}`, loaded and running."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from statecell_server.batching.runner import Runner
from statecell_server.config import Config
from statecell_server.durability.store import StateStore
from statecell_server.errors import ModelInUse, ModelNotFound, ModelRefused, SnapshotMismatch, StatecellError
from statecell_server.runtimes.loading import load
from statecell_server.runtimes.runtime import LoadError
from statecell_server.sessions.budget import Budget
from statecell_server.sessions.session import Session
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)


class Repository:
    """Every version of every model in the folder, by name."""

    def __init__(
        self,
        config: Config,
        store: StateStore | None = None,
        sessions: Sessions | None = None,
        lost: Callable[[str], None] = log.critical,
    ) -> None:
        """Loads all of them. `sessions`: the server's; any thread tells `lost` of a device that broke. Raises LoadError."""
        self._config = config
        self._store = store
        self._lost = lost
        self._sessions = Sessions(config.session_ttl, Budget(config.session_memory)) if sessions is None else sessions
        self._runners: dict[str, dict[str, Runner]] = {}
        self._idle: set[Path] = set()  # folders of versions that were replaced and unloaded
        self._refused: dict[Path, tuple[int, str]] = {}  # folders not loaded: when their files were last changed, and why not
        self._unloaded: set[str] = set()  # models that were unloaded by name
        self._loading = asyncio.Lock()
        for folder in self._folders():
            self._add(self._load(folder))
        if not self._runners:
            raise LoadError(f"there is no model in {config.models}: expected <name>/<version>/model.onnx or model.pt")
        for option, names in (("--runtime", config.runtimes), ("--device", config.devices)):
            for name in names:
                if name not in self._runners:
                    raise LoadError(f"{option} names {name!r}, which is no model; there are {', '.join(sorted(self._runners))}")

    def _folders(self) -> list[Path]:
        # Not those that begin with a dot: an export under way is written there.
        return sorted({path.parent for path in self._config.models.glob("[!.]*/*/model.*")})

    def _load(self, folder: Path) -> Runner:
        name, version = folder.parts[-2:]
        if not version.isdigit():
            raise LoadError(f"{folder} is not a version: its name must be a number, as in {name}/1")
        config = self._config
        chosen = config.runtimes.get(name) or ("onnxruntime" if (folder / "model.onnx").exists() else "torchscript")
        runtime = load(folder, chosen, config.devices.get(name, config.device), config)
        runner = Runner(name, version, runtime, config, self._store, self._sessions, self._lost)
        log.info("%s/%s runs in %s on %s%s", name, version, runtime.name, runtime.device, runner.note and f": {runner.note}")
        return runner

    def _add(self, runner: Runner) -> None:
        self._runners.setdefault(runner.name, {})[runner.version] = runner

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

    def of(self, session: Session) -> Runner:
        """Where the session is at home. It is there: a version that has sessions is not unloaded."""
        return self._runners[session.model][session.version]

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
        folder = self._config.models / name / version
        if folder in self._idle and folder.exists():
            await self._bring(folder)

    async def refresh(self, in_use: Callable[[Runner], int]) -> bool:
        """Takes new versions in, and unloads those that are older than the newest and not in use. Whether any changed."""
        before = list(self)
        for folder in self._folders():
            if folder not in self._idle and folder.parent.name not in self._unloaded:
                await self._bring(folder)
        for versions in list(self._runners.values()):
            newest = max(versions, key=int)
            for version, runner in list(versions.items()):
                if version != newest and not in_use(runner):
                    del versions[version]
                    self._idle.add(self._config.models / runner.name / version)
                    await asyncio.to_thread(runner.stop)
                    log.info("unloaded %s version %s: version %s has replaced it", runner.name, version, newest)
        return before != list(self)

    async def load(self, name: str) -> None:
        """Takes in the versions of the model that are in the folder. Raises ModelNotFound, ModelRefused."""
        folders = [folder for folder in self._folders() if folder.parent.name == name]
        if not folders:
            raise ModelNotFound(f"there is no model {name!r} in {self._config.models}", model=name)
        self._unloaded.discard(name)
        for folder in folders:
            if folder in self._idle:
                continue
            self._refused.pop(folder, None)
            await self._bring(folder)
            if folder in self._refused:
                raise ModelRefused(f"model {name!r} cannot be loaded: {self._refused[folder][1]}", model=name)

    async def unload(self, name: str, in_use: Callable[[Runner], int]) -> None:
        """All of its versions. Raises ModelNotFound, ModelInUse."""
        self.get(name)
        users = sum(in_use(runner) for runner in self._runners[name].values())
        if users:
            raise ModelInUse(f"model {name!r} has {users} sessions or steps; end them first", model=name)
        self._unloaded.add(name)
        for runner in self._runners.pop(name).values():
            await asyncio.to_thread(runner.stop)
        log.info("unloaded %s", name)

    def absent(self) -> Iterator[tuple[str, str, str]]:
        """(name, version, why) of what is in the folder and not loaded."""
        for folder in self._folders():
            name, version = folder.parts[-2:]
            if version not in self._runners.get(name, {}):
                if folder in self._refused:
                    why = self._refused[folder][1]
                elif name in self._unloaded:
                    why = "unloaded"
                else:
                    why = "replaced by a newer version" if folder in self._idle else "not loaded yet"
                yield name, version, why

    async def _bring(self, folder: Path) -> None:
        """Loads the folder's version, if it is not. What cannot be loaded is logged, and tried again when it has changed."""
        async with self._loading:
            name, version = folder.parts[-2:]
            if version in self._runners.get(name, {}):
                return
            changed = max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0)
            if self._refused.get(folder, (0, ""))[0] == changed:
                return
            try:
                runner = await asyncio.to_thread(self._load, folder)
            except (LoadError, StatecellError) as error:
                self._refused[folder] = changed, str(error)
                log.error("%s", error)
                return
            runner.start()
            self._add(runner)
            self._idle.discard(folder)
            self._refused.pop(folder, None)
            log.info("loaded %s version %s", name, version)
