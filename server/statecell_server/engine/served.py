"""Served: the versions of models that run, by name."""

from collections.abc import Callable, Iterator, Mapping

from statecell_server.batching.runner import Runner
from statecell_server.errors import ModelNotFound
from statecell_server.sessions.session import Session


class Served:
    """`served.get("lstm")` is its newest version. Belongs to the event loop."""

    def __init__(self) -> None:
        self._runners: dict[str, dict[str, Runner]] = {}

    def __iter__(self) -> Iterator[Runner]:
        for versions in list(self._runners.values()):
            yield from list(versions.values())

    def __bool__(self) -> bool:
        return bool(self._runners)

    def add(self, runner: Runner) -> None:
        self._runners.setdefault(runner.name, {})[runner.version] = runner

    def remove(self, runner: Runner) -> None:
        versions = self._runners[runner.name]
        del versions[runner.version]
        if not versions:
            del self._runners[runner.name]

    def versions(self, name: str) -> Mapping[str, Runner]:
        """Those of the model."""
        return self._runners.get(name, {})

    def get(self, name: str, version: str, why: Callable[[], str]) -> Runner:
        """The version, or the newest where it is "". `why`: what to say of a model that is not there. Raises ModelNotFound."""
        versions = self._runners.get(name)
        if not versions:
            raise ModelNotFound(f"there is no model {name!r}; there are {', '.join(sorted(self._runners))}{why()}", model=name)
        runner = versions.get(version or max(versions, key=int))
        if runner is None:
            have = ", ".join(sorted(versions, key=int))
            raise ModelNotFound(f"model {name!r} has no version {version!r}; it has {have}", model=name, version=version)
        return runner

    def of(self, session: Session) -> Runner:
        """Where the session is at home. It is there: a version that has sessions is not unloaded."""
        home = session.home
        return self._runners[home.name][home.version]

    def holding(self, name: str, version: str, digest: str) -> Runner | None:
        """What has this digest: the version, or another one of the same artifact."""
        others = sorted(self.versions(name).values(), key=lambda r: r.version != version)
        return next((runner for runner in others if runner.runtime.digest == digest), None)

    def replaced(self) -> list[Runner]:
        """Versions that are older than the newest of their models."""
        return [r for versions in self._runners.values() for r in versions.values() if r.version != max(versions, key=int)]
