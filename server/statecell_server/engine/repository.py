"""Repository: the models of a folder, `<name>/<version>/{model.onnx,model.pt}`, loaded and running."""

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import NamedTuple

from statecell_server.batching.runner import Runner
from statecell_server.config import OPTIONS, Config
from statecell_server.durability.store import StateStore
from statecell_server.engine.attempt import attempt
from statecell_server.engine.loader import Loader
from statecell_server.engine.served import Served
from statecell_server.engine.shelf import Found, Mark, look, look_at
from statecell_server.errors import ModelInUse, ModelNotFound, ModelRefused, SnapshotMismatch
from statecell_server.options import closest
from statecell_server.runtimes.runtime import DeviceError, DeviceLost, LoadError
from statecell_server.sessions.budget import Budget
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a start waits for a model that is tried, of which none takes long, before it serves the others."""
AT_ONCE = 4
"""Versions that are loaded side by side: one that hangs does not hold up the others."""


class Refusal(NamedTuple):
    """A version that is not served: the files it was found with, and why not."""

    mark: Mark
    reason: str


class Absent(NamedTuple):
    """A version that lies in the folder and is not served."""

    name: str
    version: str
    reason: str


class Repository:
    """Every version of every model in the folder, by name. One that cannot be loaded harms none of the others."""

    def __init__(
        self,
        config: Config,
        store: StateStore | None = None,
        sessions: Sessions | None = None,
        lost: Callable[[str], None] = log.critical,
    ) -> None:
        """Loads all that can be. `sessions`: the server's; any thread tells `lost` of a device that broke.

        Raises LoadError where there is none to serve, and where a device that an option names cannot be used.
        """
        self._config = config
        self._lost = lost
        if sessions is None:
            sessions = Sessions(config.longest_ttl, Budget(config.session_memory))
        self._loader = Loader(config, store, sessions, lost)
        self._served = Served()
        self.of = self._served.of
        self._idle: set[Path] = set()  # folders of versions that were replaced and unloaded
        self._refused: dict[Path, Refusal] = {}
        self._unloaded: set[str] = set()  # models that were unloaded by name
        self._bringing: dict[Path, asyncio.Task[None]] = {}
        self._late: dict[Path, tuple[Found, concurrent.futures.Future[Runner]]] = {}  # from the start
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._told: object = None  # what was served and refused when the last look ended
        self._take_all()

    def _take_all(self) -> None:
        config = self._config
        found = look(config.models)
        for one in found:
            loading = self._loader.load(one)
            self._settle(one, loading, min(PATIENCE, self._loader.longest) if self._loader.tries(one) else self._loader.longest)
        for one, loading in list(self._late.values()):
            if not self._served:  # nobody is held up
                self._settle(one, loading, self._loader.longest)
        self._loader.rest()
        if not found:
            raise LoadError(f"there is no model in {config.models}: expected <name>/<version>/model.onnx or model.pt")
        if not self._served:
            reasons = [f"{'/'.join(folder.parts[-2:])}: {refusal.reason}" for folder, refusal in self._refused.items()]
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            raise LoadError(f"no model in {config.models} can be served: {'; '.join(reasons[:3])}{more}")
        names = sorted({one.name for one in found})
        for name, own in config.for_models.items():
            if name not in names:
                settings = ", ".join(OPTIONS[field].name for field in own)
                raise LoadError(
                    f"models.{name} has settings ({settings}), but {name!r} is no model; there are {', '.join(names)}"
                    + closest(name, names)
                )

    def _settle(self, one: Found, loading: "concurrent.futures.Future[Runner]", seconds: float) -> None:
        """Takes in what is loaded by then; what is still being loaded, though others wait to be served, comes later."""
        self._late.pop(one.folder, None)
        try:
            self._served.add(loading.result(seconds))
        except (DeviceError, DeviceLost):
            raise
        except Exception as error:
            if loading.done() or seconds == self._loader.longest:
                self._refuse(one, error)
            else:
                self._late[one.folder] = one, loading
                log.warning("%s/%s is not loaded after %g s: the others are served before it", one.name, one.version, seconds)

    def start(self, changed: Callable[[], None]) -> None:
        """On the event loop that is to own it. `changed` is called when what takes long to load is there, or refused."""
        for runner in self:
            runner.start()
        for folder, (one, loading) in self._late.items():
            task = self._keep(folder, self._finish(one, loading))
            task.add_done_callback(lambda _: changed())
        self._late.clear()

    def _refuse(self, one: Found, error: Exception) -> None:
        """It is logged once, and tried again when its files have changed."""
        reason = self._loader.reason(one, error)
        self._refused[one.folder] = Refusal(one.mark, reason)
        log.error("%s/%s is not served: %s", one.name, one.version, reason)

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._served)

    def get(self, name: str, version: str = "") -> Runner:
        """The version, or the newest. Raises ModelNotFound."""
        return self._served.get(name, version, lambda: self._why(name))

    def _why(self, name: str) -> str:
        """Of a model that is not served, if it was refused."""
        refused = ((folder, refusal) for folder, refusal in self._refused.items() if folder.parent.name == name)
        return next((f"; {name}/{folder.name} is not served: {refusal.reason}" for folder, refusal in refused), "")

    async def holding(self, name: str, version: str, digest: str) -> Runner:
        """Where a session of this digest goes on: its own version, or another one of the same artifact.

        A version that was unloaded is loaded again. Raises ModelNotFound, SnapshotMismatch.
        """
        await self.wake(name, version)
        runner = self._served.holding(name, version, digest)
        if runner is not None:
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
        if self._idle and (folder := self._config.models / name / version) in self._idle:
            await asyncio.shield(self._bring(folder))  # a caller who goes away takes nothing from the others who wait

    async def refresh(self, in_use: Callable[[Runner], int]) -> bool:
        """Takes new versions in, and unloads those that are older than the newest and not in use. Whether any changed.

        What takes long to load goes on loading when this returns: it holds up neither the others nor the next look.
        """
        found = await self._look()
        for folder in self._refused.keys() - {one.folder for one in found}:
            del self._refused[folder]
        coming = [
            self._bring(one.folder)
            for one in found
            if one.folder not in self._idle
            and one.folder.parent.name not in self._unloaded
            and one.version not in self._served.versions(one.name)
        ]
        if coming:
            await asyncio.wait(coming, timeout=max(self._config.poll_models, 1))
        for runner in self._served.replaced():
            if not in_use(runner):
                self._served.remove(runner)
                self._idle.add(self._config.models / runner.name / runner.version)
                await asyncio.to_thread(runner.stop)
                newest = self.get(runner.name).version
                log.info("unloaded %s version %s: version %s has replaced it", runner.name, runner.version, newest)
        told, self._told = self._told, (list(self), sorted(self._refused))
        return told != self._told

    async def _look(self) -> list[Found]:
        return await asyncio.wrap_future(attempt(lambda: look(self._config.models), "look for models"))

    async def load(self, name: str) -> None:
        """Takes in the versions of the model that are in the folder. Raises ModelNotFound, ModelRefused."""
        folders = [one.folder for one in await self._look() if one.folder.parent.name == name]
        if not folders:
            raise ModelNotFound(f"there is no model {name!r} in {self._config.models}", model=name)
        self._unloaded.discard(name)
        for folder in folders:
            if folder in self._idle:
                continue
            self._refused.pop(folder, None)
            await asyncio.shield(self._bring(folder))
            if folder in self._refused:
                raise ModelRefused(f"model {name!r} cannot be loaded: {self._refused[folder].reason}", model=name)

    async def unload(self, name: str, in_use: Callable[[Runner], int]) -> None:
        """All of its versions. Raises ModelNotFound, ModelInUse."""
        self.get(name)
        runners = list(self._served.versions(name).values())
        users = sum(map(in_use, runners))
        if users:
            raise ModelInUse(f"model {name!r} has {users} sessions or steps; end them first", model=name)
        self._unloaded.add(name)
        for runner in runners:
            self._served.remove(runner)
        for runner in runners:
            await asyncio.to_thread(runner.stop)
        log.info("unloaded %s", name)

    async def absent(self) -> list[Absent]:
        """What is in the folder and not served."""
        missing = []
        for one in await self._look():
            if one.version not in self._served.versions(one.name):
                if one.folder in self._refused:
                    why = self._refused[one.folder].reason
                elif one.name in self._unloaded:
                    why = "unloaded"
                elif one.folder in self._bringing:
                    why = "being loaded"
                else:
                    why = "replaced by a newer version" if one.folder in self._idle else "not loaded yet"
                missing.append(Absent(one.name, one.version, why))
        return missing

    @property
    def failing(self) -> set[str]:
        """Models of which no version is served, and at least one was refused."""
        return {Found(folder, ()).name for folder in self._refused} - {runner.name for runner in self}

    def stop(self) -> None:
        """What is being loaded is left to itself."""
        for task in self._bringing.values():
            task.cancel()
        self._loader.close()
        for runner in self:
            runner.stop()

    def _bring(self, folder: Path) -> "asyncio.Task[None]":
        """Loads the folder's version, if it is not and is not about to be. Never fails: what cannot be loaded is refused."""
        task = self._bringing.get(folder)
        if task is None:
            task = self._keep(folder, self._take(folder))
        return task

    def _keep(self, folder: Path, coming: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = self._bringing[folder] = asyncio.create_task(coming)
        task.add_done_callback(lambda _: self._bringing.pop(folder, None))
        return task

    async def _take(self, folder: Path) -> None:
        if folder.name in self._served.versions(folder.parent.name):
            return
        async with self._at_once:
            one = await asyncio.wrap_future(attempt(lambda: look_at(folder), "look at a model"))
            if one is None or (folder in self._refused and self._refused[folder].mark == one.mark):
                return
            await self._finish(one, self._loader.load(one))

    async def _finish(self, one: Found, loading: "concurrent.futures.Future[Runner]") -> None:
        try:
            runner = await asyncio.wait_for(asyncio.wrap_future(loading), self._loader.longest)
        except Exception as error:
            self._refuse(one, error)
            if isinstance(error, DeviceLost):
                self._lost(str(error))
            return
        finally:
            self._loader.rest()
        runner.start()
        self._served.add(runner)
        self._idle.discard(one.folder)
        self._refused.pop(one.folder, None)
        log.info("loaded %s version %s", one.name, one.version)
