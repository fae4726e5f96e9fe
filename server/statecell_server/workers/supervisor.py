"""Supervisor: the process that a server with several workers is to its operator. It serves nothing itself."""

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from statecell_server.config import Config
from statecell_server.transport import address
from statecell_server.workers.place import Place

SHARED = (
    "state_memory",
    "spill_memory",
    "session_memory",
    "connection_memory",
    "max_queue",
    "max_connections",
    "device_memory",
)
"""Budgets of the whole server: each worker has its part of them."""
BACKOFF = (0.1, 30.0)
"""Seconds before a worker is started again, the first time and at most; twice as many each time."""
STEADY_SECONDS = 60.0
"""A worker that has served so long begins with the first again."""
KILL_SECONDS = 5.0
"""Beyond --drain-seconds, after which a worker that was told to stop is killed."""

log = logging.getLogger(__name__)


class Supervisor:
    """`code = await Supervisor(config, said).run()`"""

    def __init__(self, config: Config, said: str) -> None:
        """Raises AddressError."""
        self._config, self._said = config, said
        self._stop = asyncio.Event()
        self._ready = 0
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        address.check(config.host, config.port)

    async def run(self) -> int:
        """Until SIGTERM, SIGHUP or Ctrl-C; the exit code. Raises AddressError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop.set)
        with tempfile.TemporaryDirectory(prefix="statecell-") as folder, self._reserved() as listener:  # of mode 0700
            port = int(listener.getsockname()[1])
            return await self._serve(Path(folder), port)

    def _reserved(self) -> socket.socket:
        """Keeps the port, whichever workers come and go: bound, and listening to nobody."""
        config = self._config
        family = socket.getaddrinfo(config.host or None, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        reserved = socket.socket(family[0], family[1])
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind(family[4])
        except OSError as error:
            reserved.close()
            raise address.explained(error, config.host, config.port) from error
        return reserved

    async def _serve(self, folder: Path, port: int) -> int:
        places = [Place(index, self._config.workers, folder) for index in range(self._config.workers)]
        # The first one alone: what is wrong with the models or the options is said once.
        first = await self._start(places[0], port)
        if not await self._until_ready(first):
            return await self._ended(first)
        keepers = [asyncio.create_task(self._keep(places[0], port, first))]
        keepers += [asyncio.create_task(self._keep(place, port)) for place in places[1:]]
        await self._stop.wait()
        log.info("stopping: %d workers finish what is in flight", len(self._processes))
        for process in list(self._processes.values()):
            _send(process, signal.SIGTERM)
        codes = await asyncio.gather(*keepers)
        log.info("stopped")
        return max(codes)

    async def _start(self, place: Place, port: int) -> asyncio.subprocess.Process:
        config, parts = self._config, self._config.workers
        own: dict[str, Any] = {name: max(1, getattr(config, name) // parts) for name in SHARED if getattr(config, name)}
        own["for_models"] = {
            model: {name: max(1, value // parts) if name in SHARED and value else value for name, value in fields.items()}
            for model, fields in config.for_models.items()
        }
        own["connection_memory"] = max(own["connection_memory"], 1 << 20)
        roll = config.sequence_roll
        roll = place.roll() if roll is None else roll.with_name(f"{roll.name}.{place.index}")
        config = replace(config, port=port, worker=place.index, sequence_roll=roll, **own)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "statecell_server.worker", stdin=-1, stdout=-1, start_new_session=True
        )
        self._processes[place.index] = process
        assert process.stdin is not None, "it is a pipe, and stays open as long as this process lives"
        process.stdin.write(pickle.dumps((config, self._said, place)))
        return process

    async def _until_ready(self, process: asyncio.subprocess.Process) -> bool:
        """Whether it serves; then it is told once where all do."""
        assert process.stdout is not None, "it is a pipe"
        stopping = asyncio.create_task(self._stop.wait())
        line = asyncio.create_task(process.stdout.readline())
        await asyncio.wait([line, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not line.done():
            _send(process, signal.SIGTERM)
        said = await line
        if not said.startswith(b"listening on "):
            return False
        self._ready += 1
        if self._ready == self._config.workers:
            print(said.decode().strip(), flush=True)
        return True

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Its exit code: 0 where it was stopped before it had a handler for that."""
        code = await process.wait()
        return 0 if code == -signal.SIGTERM and self._stop.is_set() else code

    async def _keep(self, place: Place, port: int, process: asyncio.subprocess.Process | None = None) -> int:
        """A worker in this place until all are to stop; its last one's exit code."""
        backoff = BACKOFF[0]
        while True:
            began = time.monotonic()
            if process is None:
                process = await self._start(place, port)
                if self._stop.is_set():
                    _send(process, signal.SIGTERM)
                await self._until_ready(process)
            waiting = asyncio.create_task(self._ended(process))
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if self._stop.is_set():
                return await self._last(place, process, waiting)
            place.clear(place.index)
            if time.monotonic() - began > STEADY_SECONDS:
                backoff = BACKOFF[0]
            log.error("worker %d has ended with code %d; another is started in %g s", place.index, waiting.result(), backoff)
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stopping], timeout=backoff)
            stopping.cancel()
            if self._stop.is_set():
                return 0
            backoff, process = min(2 * backoff, BACKOFF[1]), None

    async def _last(self, place: Place, process: asyncio.subprocess.Process, waiting: "asyncio.Task[int]") -> int:
        done, _ = await asyncio.wait([waiting], timeout=self._config.drain_seconds + KILL_SECONDS)
        if not done:
            log.error("worker %d does not stop and is killed", place.index)
            _send(process, signal.SIGKILL)
        code = await waiting
        place.clear(place.index)
        return abs(code)


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    """Unless it has ended already: whoever keeps it finds out."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
