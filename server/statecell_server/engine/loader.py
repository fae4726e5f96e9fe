"""Loader: from a version's folder, whatever lies in it, to a Runner or a reason why not."""

import logging
from collections.abc import Callable
from concurrent.futures import Future

from statecell_server.batching.runner import Runner
from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.durability.store import StateStore
from statecell_server.engine.attempt import attempt
from statecell_server.engine.shelf import Found
from statecell_server.errors import StatecellError
from statecell_server.runtimes import trial_load
from statecell_server.runtimes.loading import load
from statecell_server.runtimes.runtime import LoadError
from statecell_server.sessions.table import Sessions

log = logging.getLogger(__name__)

LONGEST_REASON = 1000
"""Characters."""


class Loader:
    """`Loader(...).load(found)`: a Runner, some day. Nothing that a file does keeps the event loop."""

    def __init__(
        self, config: Config, store: StateStore | None, sessions: Sessions, lost: Callable[[str], None] = log.critical
    ) -> None:
        """As Repository has them."""
        self._config = config
        self._store = store
        self._sessions = sessions
        self._lost = lost
        self._trials = trial_load.Trials()

    @property
    def longest(self) -> float:
        """Seconds for a version: to be tried, and to be loaded."""
        return 2 * self._config.load_seconds

    def load(self, one: Found) -> "Future[Runner]":
        """In a thread of its own. Raises LoadError and others: what is in the folder may be anything."""
        return attempt(lambda: self._load(one), f"load {one.name}")

    def _load(self, one: Found) -> Runner:
        if wrong := one.wrong():
            raise LoadError(wrong)
        config, name = self._config.of(one.name), one.name
        chosen, device = self._chosen(one)
        tried = self._trials.run(one.folder, chosen, device, config) if self.tries(one) else None
        runtime = load(one.folder, chosen, device, config)
        if tried is not None and tried[0] != runtime.digest:
            raise LoadError(
                f"{one.folder} changed while it was loaded: write it under another name, such as model.part, and rename it"
            )
        sharing = tried[1] if tried is not None and device.kind != "auto" else None
        runner = Runner(name, one.version, runtime, config, self._store, self._sessions, self._lost, sharing)
        log.info(
            "%s/%s runs in %s on %s%s", name, one.version, runtime.name, runtime.device, runner.note and f": {runner.note}"
        )
        return runner

    def _chosen(self, one: Found) -> tuple[str, Device]:
        files = [file for file, *_ in one.mark]
        config = self._config.of(one.name)
        runtime = config.runtime if config.runtime != "auto" else "onnxruntime" if "model.onnx" in files else "torchscript"
        return runtime, config.device

    def tries(self, one: Found) -> bool:
        """Whether the version is tried in a process of its own first."""
        runtime, device = self._chosen(one)
        file = "model.onnx" if runtime == "onnxruntime" else "model.pt"
        size = next((size for name, _, size, _ in one.mark if name == file), 0)
        return trial_load.wanted(self._config.of(one.name), runtime, device, size)

    def reason(self, one: Found, error: Exception) -> str:
        """Why the version is not served, in one line."""
        if isinstance(error, TimeoutError):
            reason = f"{one.folder} was given up: its file did not come, or the model was not loaded, in {self.longest:g} s"
        elif isinstance(error, LoadError | StatecellError):
            reason = str(error)
        else:
            reason = f"{one.folder} cannot be loaded: {type(error).__name__}: {error}"
        reason = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
        return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."

    def rest(self) -> None:
        """There is nothing to load for a while."""
        self._trials.rest()

    def close(self) -> None:
        """What is being tried is given up."""
        self._trials.close()
