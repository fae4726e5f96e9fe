"""Joining: a message with sessions of several workers, cut into a message for each and put together again."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from statecell.spec import ModelSpec
from statecell.tensor import Array, unpack
from statecell.v1 import inference_pb2 as pb

from statecell_server.batching.inputs import Inputs
from statecell_server.batching.runner import Runner
from statecell_server.engine.intake import check_named
from statecell_server.engine.repository import Repository
from statecell_server.errors import InvalidRequest, ShapeMismatch
from statecell_server.protocols.v1.wire import read_tensors, write_tensors
from statecell_server.workers.peers import Found


def check_message(message: pb.StreamStepsRequest) -> None:
    """As the engine does before it looks for sessions. Raises InvalidRequest."""
    check_named(message.session_ids, message.step_indexes or [None] * len(message.session_ids))


class Part(NamedTuple):
    """What one worker is to do."""

    positions: list[int]
    message: pb.StreamStepsRequest


class Cut:
    """`Cut(models, message, found).parts(owners)`; `.join(parts, replies)`."""

    def __init__(self, models: Repository, message: pb.StreamStepsRequest, found: Sequence[Found | None]) -> None:
        """`found`: of each session, at least of one. Raises what the engine would of the message as a whole."""
        known = [entry for entry in found if entry is not None]
        if any(entry[:2] != known[0][:2] for entry in known):
            raise InvalidRequest("the sessions of one message must be of one model and version", field="session_ids")
        runner = models.get(known[0].model, known[0].version)
        if not runner.scheduler.stacks:
            raise InvalidRequest(
                f"model {runner.name!r} runs one session at a time; send a message for each of the {len(found)}",
                field="session_ids",
            )
        self._message = message
        self._spec: ModelSpec = runner.spec
        self._batches = [1 if entry is None else entry.batch for entry in found]
        self._inputs = self._checked(runner, len(known) == len(found))

    def _checked(self, runner: Runner, whole: bool) -> Inputs:
        rows = sum(self._batches)
        inputs = runner.check(read_tensors(self._message.inputs), rows if whole else None)
        if inputs.rows != rows:
            raise ShapeMismatch(f"the inputs have {inputs.rows} rows, expected {rows}, one for each unknown session among them")
        answer = runner.replies.size(inputs.seq_len, inputs.rows)
        if answer > runner.max_answer:
            raise InvalidRequest(
                f"the answer would have {answer} bytes, the most is {runner.max_answer} (--max-message): "
                "send fewer time steps or rows at once"
            )
        return inputs

    def parts(self, owners: Sequence[int]) -> dict[int, Part]:
        """By worker; `owners`: of each session."""
        message = self._message
        firsts = np.cumsum([0, *self._batches])
        parts: dict[int, Part] = {}
        for index in dict.fromkeys(owners):
            positions = [position for position, of in enumerate(owners) if of == index]
            rows = [row for position in positions for row in range(firsts[position], firsts[position + 1])]
            part = pb.StreamStepsRequest(session_ids=[message.session_ids[position] for position in positions])
            part.step_indexes.extend(message.step_indexes[position] for position in positions if message.step_indexes)
            names = [tensor.name for tensor in self._spec.inputs]
            write_tensors(zip(names, self._inputs.take(self._spec, rows).arrays, strict=True), part.inputs)
            parts[index] = Part(positions, part)
        return parts

    def join(self, parts: Mapping[int, Part], replies: Mapping[int, pb.StreamStepsResponse]) -> pb.StreamStepsResponse:
        """The answer to the message, of those to its parts."""
        message = self._message
        whole = pb.StreamStepsResponse(id=message.id)
        moved: list[int] = []
        indexes: list[int] = []
        arrays: list[dict[str, Array]] = []
        for index, (positions, _) in parts.items():
            reply = replies[index]
            for error in reply.errors:
                error.position = positions[error.position]
                whole.errors.append(error)
            refused = {error.position for error in reply.errors}
            advanced = [position for position in positions if position not in refused]
            if advanced:
                moved += advanced
                indexes += reply.step_indexes
                arrays.append({tensor.name: unpack(tensor) for tensor in reply.outputs})
        whole.errors.sort(key=lambda error: error.position)
        order = sorted(range(len(moved)), key=moved.__getitem__)
        whole.session_ids.extend(message.session_ids[moved[at]] for at in order)
        whole.step_indexes.extend(indexes[at] for at in order)
        if arrays:
            write_tensors(self._outputs(arrays, moved, order), whole.outputs)
        return whole

    def _outputs(
        self, arrays: Sequence[dict[str, Array]], moved: Sequence[int], order: Sequence[int]
    ) -> list[tuple[str, Array]]:
        """The rows of all parts in the order of the message."""
        firsts = np.cumsum([0, *(self._batches[position] for position in moved)])
        rows = [row for at in order for row in range(firsts[at], firsts[at + 1])]
        outputs = []
        for spec in self._spec.outputs:
            pieces = [part[spec.name] for part in arrays]
            axis = spec.batch_axis
            outputs.append((spec.name, pieces[0] if axis is None else np.concatenate(pieces, axis).take(rows, axis)))
        return outputs
