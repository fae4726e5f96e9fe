"""What is fuzzed: whatever bytes come, only named errors are raised; what is taken is what it says it is.

Each target is a function of bytes. What it raises is a fault that was found.
"""

import contextlib
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from statecell.bounds import MOST_BYTES
from statecell.oip import inference_pb2 as oip
from statecell.spec import ModelSpec, SpecError, StateSpec, TensorSpec
from statecell.tensor import Array, TensorError, unpack
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import model_pb2, tensor_pb2
from statecell_client.cli import series
from statecell_client.cli.table import Columns
from statecell_client.errors import StatecellError as ClientError
from statecell_client.snapshot import Snapshot as ClientSnapshot
from statecell_server.batching.gathering import RowLayout
from statecell_server.batching.inputs import InputCheck, check_states, split_states
from statecell_server.durability.record import _CRC, _HEAD, FENCE_BYTES, Record
from statecell_server.errors import SnapshotMismatch, StatecellError
from statecell_server.protocols.oip.wire import read_inputs, read_outputs, read_request
from statecell_server.protocols.v1.rows import RowWire
from statecell_server.protocols.v1.wire import read_snapshot, read_tensors

from tests.fuzz.connection import fuzz_connection, fuzz_headers

STATES = (StateSpec("h_0", "h_n", "float32", (2, "batch", 5)), StateSpec("c_0", "c_n", "float32", (2, "batch", 5)))
LSTM = ModelSpec(
    "lstm",
    (TensorSpec("x", "float32", ("seq_len", "batch", 3)),),
    (TensorSpec("y", "float32", ("seq_len", "batch", 5)),),
    STATES,
)
MANY = ModelSpec(
    "many",
    (
        TensorSpec("tokens", "int64", ("batch", "seq_len")),
        TensorSpec("speaker", "int32", ()),
        TensorSpec("on", "bool", ("batch",)),
    ),
    (TensorSpec("y", "float16", ("batch", "seq_len", 2)),),
    STATES,
)
ROW = RowLayout.of(LSTM)


def fuzz_spec(data: bytes) -> None:
    """A model's own spec."""
    try:
        spec = ModelSpec.from_json(data.decode("utf-8", "surrogatepass" if data[:1] == b"{" else "replace"))
    except (SpecError, UnicodeDecodeError):
        return
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert spec.row_bytes <= MOST_BYTES
    json_format.ParseDict(spec.to_dict(), model_pb2.ModelSpec())  # as ListModels tells it
    for state in spec.states:
        np.zeros((), state.dtype).fill(state.initial)


def fuzz_snapshot(data: bytes) -> None:
    """A snapshot, whose checksum anybody can compute."""
    with contextlib.suppress(ClientError, TensorError):
        _ = ClientSnapshot.from_bytes(data).states
    try:
        message = pb.Snapshot.FromString(data)
    except DecodeError:
        return
    try:
        snapshot = read_snapshot(message)
        snapshot.verify(snapshot.checksum(), LSTM.name, snapshot.digest)
        states = check_states(LSTM, snapshot.states, snapshot.batch)
    except StatecellError:
        return
    assert [array.shape for array in states] == [state.sized(batch=snapshot.batch) for state in STATES]


def fuzz_record(data: bytes) -> None:
    """A record in the store, as it is, and with a checksum that fits."""
    fitting = bytearray(data)
    if len(data) >= FENCE_BYTES + _HEAD.size:
        fitting[_CRC] = bytes(4)
        fitting[_CRC] = zlib.crc32(fitting).to_bytes(4, "big")
    for record in (data, bytes(fitting)):
        try:
            found = Record.decode(record)
        except SnapshotMismatch:
            continue
        assert sum(array.nbytes for array in (*found.states.values(), *found.outputs.values())) <= len(data)
        again = Record.decode(found.encode())
        assert (again.model, again.batch, again.fence) == (found.model, found.batch, found.fence)
        assert {name: a.tobytes() for name, a in again.states.items()} == {
            name: a.tobytes() for name, a in found.states.items()
        }


def _checked(spec: ModelSpec, tensors: dict[str, Array]) -> None:
    inputs, states = split_states(spec, tensors)
    checked = InputCheck(spec)(inputs, None)
    for array, tensor in zip(checked.arrays, spec.inputs, strict=True):
        assert array.shape == tensor.sized(seq_len=checked.seq_len, batch=checked.rows)
        assert array.dtype == tensor.dtype
    if states:
        check_states(spec, states, checked.rows)


def fuzz_v1(data: bytes) -> None:
    """A step of statecell.v1, on both of its ways."""
    for spec in (LSTM, MANY):
        with contextlib.suppress(DecodeError, StatecellError):
            _checked(spec, read_tensors(pb.InferRequest.FromString(data).inputs))
    with contextlib.suppress(DecodeError, StatecellError):
        check_states(LSTM, read_tensors(pb.CreateSessionRequest.FromString(data).initial_state), 1)
    assert ROW is not None, "an LSTM's steps are rows"
    row = RowWire(ROW).read(data)
    if row is not None:  # the short way must not take what the other way reads otherwise
        array = unpack(tensor_pb2.Tensor.FromString(data))
        assert (array.tobytes(), array.shape) == (row, (1, 1, 3))


def fuzz_oip(data: bytes) -> None:
    """A request of the Open Inference Protocol."""
    try:
        request = oip.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    for spec in (LSTM, MANY):
        with contextlib.suppress(StatecellError):
            _checked(spec, read_inputs(request))
    with contextlib.suppress(StatecellError):
        sequence = read_request(request)
        if sequence is not None:
            sequence.content()
    with contextlib.suppress(StatecellError):
        read_outputs(request)


def fuzz_files(data: bytes) -> None:
    """A file that a person gives to the command; its first byte says of which kind."""
    suffix = (".csv", ".npy", ".npz")[data[0] % 3] if data else ".csv"
    path = Path(tempfile.gettempdir()) / f"statecell-fuzz{suffix}"
    path.write_bytes(data[1:])
    for spec in (LSTM, MANY):
        for columns in (Columns(), Columns(("1", "b", "3"), ";")):
            for read in (series.read, series.whole):
                with contextlib.suppress(ValueError):
                    read(path, spec, columns)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "spec": fuzz_spec,
    "snapshot": fuzz_snapshot,
    "record": fuzz_record,
    "v1": fuzz_v1,
    "oip": fuzz_oip,
    "connection": fuzz_connection,
    "headers": fuzz_headers,
    "files": fuzz_files,
}
