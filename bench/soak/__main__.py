"""`python -m bench.soak --minutes 30`: prints what was answered, what grew and what was lost.

Exits with 1 where an answer was wrong, a call failed or something was lost.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.messages import sessions
from bench.setup import CACHE, export, repository
from bench.soak.clients import Clients
from bench.soak.tape import record

MODEL = "1x128"
LIVES = 3
"""Clients of each kind at a time."""
EVERY = 5.0
"""Seconds between two looks at the server."""
WARM = 0.3
"""Of the time, after which memory is expected to grow no more."""
QUIET = 120.0
"""Seconds at most for the server to let go of everything, once its clients have gone."""
Census = dict[str, int]


class Server:
    """bench/soak/server.py in a process of its own."""

    def __init__(self, models: Path) -> None:
        CACHE.mkdir(exist_ok=True)
        self.log = CACHE / "soak.log"
        command = [sys.executable, "-m", "bench.soak.server", str(models)]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.address = self._line().split()[-1]

    def _line(self) -> str:
        assert self._process.stdout is not None, "it is a pipe"
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"the server has ended with {self._process.wait()}; see {self.log}")
        return line

    def census(self, *, collect: bool = False) -> Census:
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write("collect\n" if collect else "\n")
        self._process.stdin.flush()
        counted: Census = json.loads(self._line())
        return counted

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(QUIET)


async def keep(kind: str, life: Any, until: float, failures: list[str]) -> None:
    """One life after another."""
    while time.monotonic() < until and len(failures) < 20:
        try:
            await life()
        except Exception as error:
            failures.append(f"{kind}: {type(error).__name__}: {error}")


async def soak(
    server: Server, minutes: float, seed: int, only: str
) -> tuple[Counter[str], list[str], list[tuple[float, Census]]]:
    """(right answers by kind, what went wrong, looks at the server by time in seconds)."""
    tapes, rng = record(repository(MODEL) / MODEL / "1" / "model.onnx", 50, seed), random.Random(seed)
    began, failures, counts = time.monotonic(), list[str](), Counter[str]()
    looks: list[tuple[float, Census]] = []
    async with AsyncExitStack() as stack:
        lives = []
        for _ in range(LIVES):
            options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            clients = Clients(server.address, channel, MODEL, tapes, rng)
            clients.counts = counts
            chosen = {kind: life for kind, life in clients.kinds().items() if only in ("", kind)}
            lives += [keep(kind, life, began + minutes * 60, failures) for kind, life in chosen.items()]
        going = asyncio.gather(*lives)
        while not going.done():
            await asyncio.wait([going], timeout=EVERY)
            looks.append((time.monotonic() - began, await asyncio.to_thread(server.census)))
        await going
    return counts, failures, looks


def settled(server: Server, before: Census) -> Census:
    """The server after its clients, when it holds no more than before, or after QUIET."""
    end = time.monotonic() + QUIET
    while True:
        now = server.census(collect=True)
        if all(now[name] <= before[name] for name in before if name != "rss") or time.monotonic() > end:
            return now
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one kind of client, to find out which of them something comes from")
    given = parser.parse_args()
    export(MODEL)
    server = Server(repository(MODEL))
    with sessions(server.address, MODEL, 1):  # what is made once, for the first client, is no leak
        pass
    before = server.census(collect=True)
    counts, failures, looks = asyncio.run(soak(server, given.minutes, given.seed, given.only))
    after = settled(server, before)
    code = server.stop()
    warm = [(when, look) for when, look in looks if when > WARM * given.minutes * 60]
    minutes, sizes = np.array([when / 60 for when, _ in warm]), np.array([look["rss"] / 1024 for _, look in warm])
    slope = float(np.polyfit(minutes, sizes, 1)[0]) if len(warm) > 1 else float("nan")
    log = server.log.read_text()
    complaints = log.count(" ERROR ") + log.count("Traceback")
    print(f"{given.minutes:g} minutes, {9 * LIVES} clients at a time, seed {given.seed}; every answer compared to the bit\n")
    print("| answers | right |\n|---|---:|")
    for kind, count in sorted(counts.items()):
        print(f"| {kind} | {count:,} |")
    print(f"| all | {counts.total():,} |\n")
    print("| the server | before | most | after |\n|---|---:|---:|---:|")
    for name in before:
        unit = 1 << 20 if name == "rss" else 1
        most = max((look[name] for _, look in looks), default=0)
        label = "resident memory, MiB" if name == "rss" else name
        print(f"| {label} | {before[name] // unit:,} | {most // unit:,} | {after[name] // unit:,} |")
    quarters = [looks[len(looks) * n // 4 - 1][1]["rss"] / (1 << 20) for n in range(1, 5)] if len(looks) > 3 else []
    print(f"\nresident memory at each quarter of the time, MiB: {', '.join(f'{size:.1f}' for size in quarters)}")
    print(f"resident memory after warming up: {slope:+.1f} KiB a minute, over {len(warm)} looks")
    print(f"wrong or failed: {len(failures)}; errors in its log: {complaints}; exit code {code}")
    for failure in failures:
        print(f"  {failure}")
    lost = [name for name in ("sessions", "slots", "waiting", "tasks", "fds") if after[name] > before[name]]
    print(f"lost: {', '.join(lost) or 'nothing'}")
    if failures or lost or code or complaints:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
