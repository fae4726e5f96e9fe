"""Turn: one request of a sequence, and the Answer to it."""

from collections.abc import Mapping
from typing import NamedTuple

from statecell.tensor import Array

from statecell_server.runner import Runner
from statecell_server.sessions import DURABLE

Key = tuple[str, str]  # model, sequence id


def session_id(key: Key, *, durable: bool = False) -> str:
    """The id of the session behind a sequence, for those who want to look at it by other means."""
    return f"{DURABLE if durable else ''}sequence/{key[0]}/{key[1]}"


class Turn(NamedTuple):
    """One request of a sequence."""

    model: str
    version: str  # "": the newest, or the one that the sequence was started on
    sequence_id: str
    tensors: Mapping[str, Array]
    request_id: str = ""  # "": a request like no other
    start: bool = False
    end: bool = False
    replace: bool = False  # `start` ends a live sequence of this id, which would be an error otherwise
    durable: bool = False
    step_index: int | None = None  # None: wherever the sequence stands
    outputs: tuple[str, ...] = ()  # those that will be asked for; they must exist

    @property
    def key(self) -> Key:
        return self.model, self.sequence_id

    def content(self) -> int:
        """What tells this request from another one of the same id."""
        return hash((self.start, self.end, *((name, a.shape, a.tobytes()) for name, a in sorted(self.tensors.items()))))


class Answer(NamedTuple):
    """The outputs by name, and the sequence's step_index after them."""

    runner: Runner
    outputs: dict[str, Array]
    step_index: int

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.outputs.values())
