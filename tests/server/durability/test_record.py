"""The format in which sessions lie in the store."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from statecell.spec import DTYPES
from statecell.tensor import Array
from statecell_server.durability.record import FENCE_BYTES, Record, step_index_of
from statecell_server.errors import SnapshotMismatch


def a_record(**changes: object) -> Record:
    fields = {
        "model": "lstm",
        "version": "1",
        "digest": "d" * 64,
        "owner": "a1b2c3d4",
        "batch": 3,
        "step_index": 7,
        "created": 1234.5,
        "states": {"h_0": np.arange(6, dtype="f4").reshape(1, 3, 2), "c_0": np.ones((1, 3, 2), "f4")},
        "reply_start": 5,
        "outputs": {"y": np.arange(12, dtype="f4").reshape(2, 3, 2)},
    }
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


@given(
    states=st.dictionaries(
        st.text(min_size=1, max_size=9),
        st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_dims=4, max_side=4))),
        max_size=3,
    ),
    step_index=st.integers(0, 2**62),
)
def test_a_record_is_read_back_bit_for_bit(states: dict[str, Array], step_index: int) -> None:
    record = a_record(states=states, step_index=step_index)
    back = Record.decode(record.encode())
    assert list(back.states) == list(states)
    for name, array in states.items():
        assert (back.states[name].dtype, back.states[name].shape) == (array.dtype, array.shape)
        assert back.states[name].tobytes() == array.tobytes()
    assert back.outputs["y"].tobytes() == record.outputs["y"].tobytes()
    for name in ("model", "version", "digest", "owner", "batch", "step_index", "created", "reply_start", "fence"):
        assert getattr(back, name) == getattr(record, name)


def test_a_record_begins_with_its_fence_which_no_other_has() -> None:
    one, two = a_record(), a_record()
    assert one.encode()[:FENCE_BYTES] == one.fence != two.fence
    assert step_index_of(one.fence) == 7


def test_damage_of_any_byte_is_found() -> None:
    data = a_record().encode()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        with pytest.raises(SnapshotMismatch):
            Record.decode(bytes(damaged))
    for size in range(len(data)):
        with pytest.raises(SnapshotMismatch):
            Record.decode(data[:size])


def test_a_record_of_another_format_is_refused_by_name() -> None:
    data = bytearray(a_record().encode())
    struct.pack_into(">H", data, FENCE_BYTES + 4, 2)
    with pytest.raises(SnapshotMismatch, match="has format 2, this server reads format 1"):
        Record.decode(bytes(data))
