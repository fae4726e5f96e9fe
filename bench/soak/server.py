"""The server, which also counts what it holds: `python -m bench.soak.server MODELS`.

A line on standard input is answered with a line of JSON, the Census; the server itself is statecell_server's App.
"""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path

from statecell_server.__main__ import event_loop
from statecell_server.app import App
from statecell_server.config import Config


def census(app: App) -> dict[str, int]:
    """What the process holds now, rss in bytes."""
    engine = app._engine
    return {
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "sessions": len(engine.sessions),
        "slots": sum(runner.arena.used for runner in engine.models),
        "waiting": sum(runner.scheduler.waiting for runner in engine.models),
    }


async def serve(models: Path) -> None:
    app = App(Config(models=models, port=0, state_memory=64 << 20))
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if sys.stdin.readline() == "collect\n":
            gc.collect()
        print(json.dumps(census(app)), flush=True)

    loop.add_reader(sys.stdin, asked)
    await app.run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(serve(Path(sys.argv[1])))
