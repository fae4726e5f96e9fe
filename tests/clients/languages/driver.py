"""Driver: a program that does through its language's client what it is told, so that one suite tests every client."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.conftest import LIMIT

Array = np.ndarray[Any, Any]
Value = Array | Sequence[float] | float | Mapping[str, Any]


class Failed(Exception):
    """What a client raised: the name of its error, the reason, and the message."""

    def __init__(self, kind: str, reason: str, message: str) -> None:
        super().__init__(f"{kind} {reason}: {message}")
        self.kind, self.reason, self.message = kind, reason, message


def show(value: Value) -> str:
    """As the drivers read it: numbers, shape:numbers for an array of several axes, name=… for each of a mapping."""
    if isinstance(value, Mapping):
        return ";".join(f"{name}={show(each)}" for name, each in value.items())
    array = np.asarray(value)
    numbers = ",".join(repr(number) for number in array.ravel().tolist())
    return numbers if array.ndim < 2 else f"{'x'.join(map(str, array.shape))}:{numbers}"


def read(text: str) -> dict[str, Array]:
    tensors = {}
    for item in text.split(";"):
        name, dtype, shape, data = item.split(":")
        sizes = [int(size) for size in shape.split("x") if size]
        tensors[name] = np.frombuffer(bytes.fromhex(data), dtype).reshape(sizes)
    return tensors


class Driver:
    """`with Driver(command) as driver: driver.ask("session", "a", "lstm", 1, 0)`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def connect(self, *addresses: str, timeout: float = 10, silence: float = 15) -> None:
        self.ask("connect", ",".join(addresses), int(timeout * 1000), int(silence * 1000))

    def session(self, name: str, model: str, batch: int = 1, durable: bool = False, state: Value | None = None) -> None:
        self.ask("session", name, model, batch, int(durable), *([] if state is None else [show(state)]))

    def step(self, name: str, x: Value) -> Any:
        return self._answer("step", name, show(x))

    def run(self, name: str, xs: Value) -> Any:
        return self._answer("run", name, show(xs))

    def stream(self, name: str, inputs: Iterable[Value]) -> Iterable[Any]:
        """Pulls an input when the answer before it was taken."""
        named = None
        for x in inputs:
            if named is None:
                named = isinstance(x, Mapping)
                self.ask("stream", name, *(["named"] if named else []))
            yield self._answer(show(x))
        if named is not None:
            self.ask("end")

    def infer(self, model: str, **inputs: Value) -> dict[str, Array]:
        return read(self.ask("infer", model, show(inputs)))

    def state(self, name: str) -> dict[str, Array]:
        return read(self.ask("state", name))

    def index(self, name: str) -> int:
        return int(self.ask("index", name))

    def ask(self, *words: object) -> str:
        """The reply to a command. Raises Failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline().rstrip("\n")
        outcome, _, rest = line.partition(" ")
        if outcome == "error":
            raise Failed(*rest.split(" ", 2))
        assert outcome == "ok", f"after {words[:2]} the driver said {line!r}"
        return rest

    def _answer(self, *words: object) -> Any:
        tensors = read(self.ask(*words))
        return tensors[""] if set(tensors) == {""} else tensors

    def stop(self) -> None:
        """Ends it as a program ends."""
        self._process.communicate(timeout=LIMIT)
        assert self._process.returncode == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()
