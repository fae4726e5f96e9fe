"""Whatever the exporter exports, the server serves: whole by Infer, and step by step where the spec says so."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import statecell_export
import torch
from google.protobuf import json_format
from statecell.spec import ModelSpec, TensorSpec
from statecell.tensor import Array, pack, unpack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import Serve
from tests.export.zoo import REFUSED, ZOO
from tests.server.caller import Caller, reason_of

ENTRIES = {f"zoo{number}": entry for number, entry in enumerate(ZOO) if entry.gives != REFUSED}
SEQ_LEN, BATCH = 40, 2


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> Iterator[Caller]:
    out: Path = tmp_path_factory.mktemp("zoo")
    for name, entry in ENTRIES.items():
        torch.manual_seed(3)
        module, example = entry.make()
        statecell_export.export(module.eval(), example, name=name, out=out)
    with serve(models=out) as server:
        caller = Caller(server.address)
        yield caller
        caller.channel.close()


def random(tensor: TensorSpec, seq_len: int, rng: np.random.Generator) -> Array:
    shape = tensor.sized(seq_len=seq_len, batch=BATCH)
    if tensor.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(tensor.dtype)
    return rng.integers(1, 3, shape).astype(tensor.dtype)


@pytest.mark.parametrize("name", ENTRIES, ids=[entry.what for entry in ENTRIES.values()])
def test_it_is_served_whole_and_stepped_where_its_spec_says_so(zoo: Caller, name: str) -> None:
    model = zoo.stub.GetModel(pb.GetModelRequest(name=name)).model
    spec = ModelSpec.from_dict(
        json_format.MessageToDict(model.spec, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )
    batch = BATCH if spec.has_batch else 1
    seq_len = SEQ_LEN if spec.has_time else 1
    rng = np.random.default_rng(8)
    inputs = {t.name: random(t, seq_len, rng) for t in spec.inputs}
    tensors = [pack(*item) for item in inputs.items()]
    whole = {t.name: unpack(t) for t in zoo.stub.Infer(pb.InferRequest(model=name, inputs=tensors)).outputs}
    assert set(whole) == {t.name for t in spec.outputs} | {s.output for s in spec.states}
    if not ENTRIES[name].streamable:
        with pytest.raises(grpc.RpcError) as error:
            zoo.create(name, batch)
        assert reason_of(error.value) == "NOT_STREAMABLE"
        return
    session = zoo.create(name, batch)
    parts: dict[str, list[Array]] = {t.name: [] for t in spec.outputs}
    at = 0
    for length in (1, 1, 3, 7, 28) if spec.has_time else (1,):
        pieces = [
            pack(t.name, a if (axis := t.time_axis) is None else a.take(range(at, at + length), axis))
            for t, a in zip(spec.inputs, inputs.values(), strict=True)
        ]
        reply = zoo.stub.Step(pb.StepRequest(session_id=session, inputs=pieces, step_index=at))
        at += length
        assert reply.step_index == at
        for tensor in reply.outputs:
            parts[tensor.name].append(unpack(tensor))
    state = zoo.state(session)
    exact = model.batch_invariant
    for t in spec.outputs:
        stepped = parts[t.name][-1] if t.time_axis is None else np.concatenate(parts[t.name], t.time_axis)
        np.testing.assert_allclose(stepped, whole[t.name], rtol=0, atol=0 if exact else 2e-6)
    for s in spec.states:
        np.testing.assert_allclose(state[s.input], whole[s.output], rtol=0, atol=0 if exact else 2e-6)
