"""Load: callers in a closed loop against one method of one server, and what came of it."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.messages import STREAM, Message
from bench.process import ProcessError, Server, module, output
from bench.results import Values
from bench.setup import Setup

SESSIONS_A_CONNECTION = 16


@dataclass(frozen=True)
class Load:
    """A caller for each message: it sends that message again and again, `window` of them in flight."""

    method: str
    messages: Sequence[Message]
    steps: int  # that a message advances its sessions by, over all of them
    reply_bytes: int  # of outputs in a reply; a smaller one is an error
    stride: int = 1  # that a message adds to its step_indexes
    window: int = 1
    active: int | None = None  # callers that go on after their first message; None: all
    nice: int = 0  # 19: takes only what others leave of the load's core

    @property
    def connections(self) -> int:
        return -(-len(self.messages) // SESSIONS_A_CONNECTION)

    def command(self, server: Server, setup: Setup) -> list[str]:
        program = [str(setup.client)] if setup.client else module("bench.client")
        kind = "streaming" if self.method == STREAM else "unary"
        active = len(self.messages) if self.active is None else self.active
        arguments = (server.address, self.method, kind, self.connections, self.window, active, self.stride)
        nice = ["nice", "-n", str(self.nice)] if self.nice else []
        return [*nice, *program, *map(str, (*arguments, setup.warm, setup.seconds, self.reply_bytes, server.pid))]

    def stdin(self) -> bytes:
        return b"".join(struct.pack("<II", len(m.data), m.indexes) + m.data for m in self.messages)


def measure(load: Load, server: Server, setup: Setup) -> Values:
    """Steps a second, latencies of messages, what a step costs the server, and how busy both cores were.

    Raises ProcessError where a call failed.
    """
    values, said = _run(load, server, setup)
    if values["failures"] or values["unopened"] or not values["steps_s"]:
        raise ProcessError(f"{load.method}: {values}\n{said}\nthe server wrote:\n{server.log.read_text()}")
    return values


def observe(load: Load, server: Server, setup: Setup) -> Values:
    """As measure, but failures are counted."""
    return _run(load, server, setup)[0]


def _run(load: Load, server: Server, setup: Setup) -> tuple[Values, str]:
    out, said = output(load.command(server, setup), setup.load_core, load.stdin())
    line, _, rest = out.partition(b"\n")
    found = json.loads(line)
    values: Values = {name: found[name] for name in ("opened_s", "failures", "unopened", "server_busy", "client_busy")}
    values["steps_s"] = steps = found["rate"] * load.steps
    values["server_us"] = 1e6 * found["server_busy"] / steps if steps else 0.0
    latencies = np.frombuffer(rest, "<f4")
    for percent in (50, 90, 99):
        values[f"p{percent}_us"] = float(np.percentile(latencies, percent)) if latencies.size else 0.0
    return values, said
