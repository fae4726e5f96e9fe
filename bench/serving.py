"""One model: ONNX Runtime alone, the engine alone, empty gRPC servers, and the server, in turns."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from bench.load import Load, measure
from bench.messages import STEP, STREAM, sessions, streamed, unary, x
from bench.process import Server, listening, module, output
from bench.results import Measurement, Values
from bench.setup import SHAPES, Setup, repository


@dataclass(frozen=True)
class Traffic:
    """How `sessions` sessions send their steps."""

    name: str
    sessions: int
    method: str = STREAM
    together: int = 1  # sessions in a message
    seq_len: int = 1  # time steps in a message
    window: int = 1  # messages that a caller has in flight
    front: str = "http2"  # of the server

    @property
    def key(self) -> str:
        return f"{self.name} {self.sessions}"

    @property
    def label(self) -> str:
        return f"{self.sessions} session{'s' * (self.sessions > 1)}, {self.name}"

    def load(self, ids: list[str], size: int) -> Load:
        inputs = x(self.seq_len, self.together, size)
        if self.method == STEP:
            messages = [unary(session_id, inputs) for session_id in ids]
        else:
            messages = [streamed(ids[at : at + self.together], inputs) for at in range(0, len(ids), self.together)]
        steps = self.together * self.seq_len
        return Load(self.method, messages, steps, inputs.nbytes, stride=self.seq_len, window=self.window)


OURS = (
    Traffic("unary", 1, STEP),
    Traffic("unary", 64, STEP),
    Traffic("stream", 1),
    Traffic("stream", 16),
    Traffic("stream", 64),
    Traffic("stream", 256),
    Traffic("message", 64, together=64),
    Traffic("message ahead", 64, together=64, window=4),
    Traffic("runs of 32", 16, seq_len=32),
    Traffic("unary, --front grpcio", 64, STEP, front="grpcio"),
    Traffic("stream, --front grpcio", 64, front="grpcio"),
)
ECHOED = ("unary 1", "unary 64", "stream 1", "stream 64", "message 64")


def statecell(model: str, front: str = "http2") -> list[str]:
    """The command that serves this model."""
    return module("statecell_server", "--models", repository(model), "--port", 0, "--front", front)


@contextmanager
def part(model: str, setup: Setup) -> Iterator[list[Measurement]]:
    """The measurements of one model, its servers running."""
    with ExitStack() as stack:
        found = [
            Measurement(f"{model}/onnxruntime", partial(_alone, model, setup)),
            Measurement(f"{model}/engine", partial(_engine, model, setup)),
        ]
        echoes = {"echo python": module("bench.echo")} | ({"echo c++": [str(setup.echo)]} if setup.echo else {})
        for name, command in echoes.items():
            server = stack.enter_context(listening(command, setup.server_core))
            found += [
                Measurement(f"{model}/{name}/{traffic.key}", partial(_echoed, traffic, model, server, setup))
                for traffic in OURS
                if traffic.key in ECHOED
            ]
        # A server for each kind of traffic, so that its batch sizes are of that traffic alone.
        for traffic in OURS:
            server = stack.enter_context(listening(statecell(model, traffic.front), setup.server_core))
            run = partial(_ours, traffic, model, server, setup)
            found.append(Measurement(f"{model}/server/{traffic.key}", run, server.batches))
        yield found


def _alone(model: str, setup: Setup) -> Values:
    path = repository(model) / model / "1" / "model.onnx"
    return _json(module("bench.limits", path, setup.seconds / 4), setup)


def _engine(model: str, setup: Setup) -> Values:
    return _json(module("bench.engine", "gain", repository(model), model, SHAPES[model][1], setup.seconds), setup)


def _json(command: list[str], setup: Setup) -> Values:
    values: Values = json.loads(output(command, setup.server_core)[0])
    return values


def _echoed(traffic: Traffic, model: str, server: Server, setup: Setup) -> Values:
    ids = [f"{i:08x}-{'x' * 22}" for i in range(traffic.sessions)]  # as long as real ones
    return measure(traffic.load(ids, SHAPES[model][1]), server, setup)


def _ours(traffic: Traffic, model: str, server: Server, setup: Setup) -> Values:
    with sessions(server.address, model, traffic.sessions) as ids:
        return measure(traffic.load(ids, SHAPES[model][1]), server, setup)
