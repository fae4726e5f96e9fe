"""SequenceRequest: one request of a sequence, and the Answer to it."""

from collections.abc import Mapping
from typing import NamedTuple

from statecell.tensor import Array

from statecell_server.batching.runner import Runner
from statecell_server.sessions.session import DURABLE

Key = tuple[str, str]  # model, sequence id with its owner's tag behind it


def session_id(key: Key, *, durable: bool = False) -> str:
    """The id of the session behind a sequence, for those who want to look at it by other means."""
    model = key[0].replace("/", "%2F")  # there is no such model, and it must not be taken for another one's sequence
    return f"{DURABLE if durable else ''}sequence/{model}/{key[1]}"


class SequenceRequest:
    """One request of a sequence."""

    __slots__ = (
        "durable",
        "end",
        "key",
        "model",
        "outputs",
        "replace",
        "request_id",
        "sequence_id",
        "start",
        "step_index",
        "tensors",
        "version",
    )

    def __init__(
        self,
        model: str,
        version: str,
        sequence_id: str,
        tensors: Mapping[str, Array],
        request_id: str = "",
        outputs: tuple[str, ...] = (),
        step_index: int | None = None,
        *,
        start: bool = False,
        end: bool = False,
        replace: bool = False,
        durable: bool = False,
        owner: str = "",
    ) -> None:
        self.key: Key = (model, sequence_id + owner)  # two callers may have a sequence each of the same id
        self.model = model
        self.version = version  # "": the newest, or the one that the sequence was started on
        self.sequence_id = sequence_id
        self.tensors = tensors
        self.request_id = request_id  # "": a request like no other
        self.outputs = outputs  # those that will be asked for; they must exist
        self.step_index = step_index  # None: wherever the sequence stands
        self.start = start
        self.end = end
        self.replace = replace  # `start` ends a live sequence of this id, which would be an error otherwise
        self.durable = durable

    def content(self) -> int:
        """What tells this request from another one of the same id."""
        parts: list[object] = [self.start, self.end]
        for name, array in sorted(self.tensors.items()):
            parts += name, array.shape, array.tobytes()
        return hash(tuple(parts))


class Answer(NamedTuple):
    """The outputs by name, and the sequence's step_index after them."""

    runner: Runner
    outputs: dict[str, Array]
    step_index: int | None  # None: of no sequence

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.outputs.values())
