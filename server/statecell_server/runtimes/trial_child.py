"""The process that tries models: `python -m statecell_server.runtimes.trial_child`, started by trial_load.

Reads pickles of its parent, (folder, runtime, device, Config) each, and answers each with a line of JSON.
"""

import contextlib
import json
import os
import pickle
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.errors import StatecellError
from statecell_server.runtimes import trial
from statecell_server.runtimes.invariance import decide
from statecell_server.runtimes.loading import load
from statecell_server.runtimes.runtime import DeviceLost, LoadError, RunError, most_rows

ROOM = 4 << 30
"""Bytes beside the states that a model's weights, kernels and intermediate results may take here."""


def answer(folder: Path, runtime: str, device: Device, config: Config) -> dict[str, object]:
    """What the model is like; or why it is refused."""
    try:
        loaded = load(folder, runtime, device, config)
        spec = loaded.spec
        rows = most_rows(spec, config.max_batch, config.state_memory)
        if spec.streamable and not spec.has_batch:  # which decide has nothing to measure on
            trial.seconds(loaded, 1, least=1, budget=0)
        sharing = decide(loaded, config.batch_variance, rows)
    except (LoadError, StatecellError, DeviceLost) as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": f"{folder} wants more memory than the {ROOM} bytes beside --state-memory that a trial has"}
    except (RunError, ValueError, OverflowError) as error:
        return {"refused": f"{folder} cannot be run on random numbers: {error}"}
    return {"sharing": asdict(sharing), "digest": loaded.digest}


def limit(device: Device, config: Config) -> None:
    """Of this process's own memory and time, should its parent be gone. A GPU's driver reserves addresses without end."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime + config.load_seconds * config.threads) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    if device.kind == "cpu":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM + 3 * config.state_memory
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(10)  # who is served already comes first
    asked = sys.stdin.buffer
    while True:
        try:
            folder, runtime, device, config = pickle.load(asked)
        except EOFError:
            return
        limit(device, config)
        answers.write(json.dumps(answer(folder, runtime, device, config)).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
