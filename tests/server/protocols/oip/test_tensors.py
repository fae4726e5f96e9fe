"""Tensors of the Open Inference Protocol: raw and typed contents, requested outputs, what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as pb

from tests.conftest import Server
from tests.server.caller import Caller, reason_of
from tests.server.oip_caller import OipCaller, arrays, request, text_of

X = np.random.default_rng(6).standard_normal((4, 2, 10), dtype=np.float32)
TOKENS = np.array([[1, 2, 3, 10]])


@pytest.fixture
def oip(server: Server) -> Iterator[OipCaller]:
    caller = OipCaller(server.address)
    yield caller
    caller.channel.close()


def typed(model: str, datatype: str, shape: tuple[int, ...], **contents: Any) -> pb.ModelInferRequest:
    """A request whose input is in the typed fields."""
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents))
    return message


def test_raw_and_typed_contents_mean_the_same(oip: OipCaller, caller: Caller) -> None:
    expected = caller.infer("lstm", X)["y"]
    assert np.array_equal(oip.infer("lstm", X), expected)
    answer = oip.stub.ModelInfer(typed("lstm", "FP32", X.shape, fp32_contents=X.ravel().tolist()))
    assert np.array_equal(arrays(answer)["y"], expected)
    assert not answer.outputs[0].HasField("contents"), "answers are raw"


def test_integers_come_both_ways_too(oip: OipCaller, caller: Caller) -> None:
    expected = caller.infer("tagger", TOKENS)["y"]
    assert np.array_equal(oip.infer("tagger", TOKENS), expected)
    answer = oip.stub.ModelInfer(typed("tagger", "INT64", TOKENS.shape, int64_contents=TOKENS.ravel().tolist()))
    assert np.array_equal(arrays(answer)["y"], expected)


def test_the_answer_names_model_version_and_request(oip: OipCaller) -> None:
    answer = oip.stub.ModelInfer(request("lstm", {"x": X}, request_id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == ("lstm", "1", "mine")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("y", "FP32", [4, 2, 20])]


def test_a_stateless_call_takes_and_gives_states_where_they_are_named(oip: OipCaller, caller: Caller) -> None:
    half = arrays(oip.stub.ModelInfer(request("lstm", {"x": X[:2]}, outputs=["c_n", "h_n"])))
    assert list(half) == ["c_n", "h_n"], "in the order in which they were asked for"
    rest = oip.stub.ModelInfer(request("lstm", {"x": X[2:], "h_0": half["h_n"], "c_0": half["c_n"]}))
    assert np.array_equal(arrays(rest)["y"], caller.infer("lstm", X)["y"][2:])


def break_shape(message: pb.ModelInferRequest) -> None:
    message.inputs[0].shape[:] = [4, 2, 11]


def break_sign(message: pb.ModelInferRequest) -> None:
    message.inputs[0].shape[:] = [-1, 2, 10]


def break_datatype(message: pb.ModelInferRequest) -> None:
    message.inputs[0].datatype = "BYTES"


def break_raw(message: pb.ModelInferRequest) -> None:
    message.raw_input_contents.append(b"")


def break_both(message: pb.ModelInferRequest) -> None:
    message.inputs[0].contents.fp32_contents.append(1.0)


def break_twice(message: pb.ModelInferRequest) -> None:
    message.inputs.add().CopyFrom(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def break_memory(message: pb.ModelInferRequest) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"


def break_name(message: pb.ModelInferRequest) -> None:
    message.inputs[0].name = "z"


def break_output(message: pb.ModelInferRequest) -> None:
    message.outputs.add(name="z")


def break_parameter(message: pb.ModelInferRequest) -> None:
    message.parameters["sequence_id"].SetInParent()


def break_flag(message: pb.ModelInferRequest) -> None:
    message.parameters["sequence_id"].int64_param = 1
    message.parameters["sequence_start"].string_param = "yes"


@pytest.mark.parametrize(
    ("spoil", "reason", "says"),
    [
        (break_shape, "INVALID_REQUEST", "FP32[4, 2, 11] but has 320 bytes"),
        (break_sign, "INVALID_REQUEST", "[-1, 2, 10]"),
        (break_datatype, "DTYPE_MISMATCH", "'BYTES'"),
        (break_raw, "INVALID_REQUEST", "2 entries for 1 inputs"),
        (break_both, "INVALID_REQUEST", "contents and with raw_input_contents"),
        (break_twice, "INVALID_REQUEST", "came twice"),
        (break_memory, "INVALID_REQUEST", "shared memory"),
        (break_name, "INVALID_REQUEST", "there is no input 'z'"),
        (break_output, "INVALID_REQUEST", "there is no output 'z'"),
        (break_parameter, "INVALID_REQUEST", "'sequence_id' has no value"),
        (break_flag, "INVALID_REQUEST", "sequence_start is 'yes'"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused_by_name(
    oip: OipCaller, spoil: Callable[[pb.ModelInferRequest], None], reason: str, says: str
) -> None:
    message = request("lstm", {"x": X})
    spoil(message)
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(message)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error.value) == reason
    assert says in text_of(error.value)


@pytest.mark.parametrize(
    "message",
    [
        typed("lstm", "FP32", X.shape, fp32_contents=[1.0]),
        typed("lstm", "FP32", X.shape, fp64_contents=X.ravel().tolist()),
        typed("lstm", "FP32", X.shape),
        typed("tagger", "INT64", (1, 1), int_contents=[1]),
    ],
)
def test_typed_contents_must_be_in_the_field_of_their_datatype_and_fill_the_shape(
    oip: OipCaller, message: pb.ModelInferRequest
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        oip.stub.ModelInfer(message)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error.value) == "INVALID_REQUEST"


def test_an_output_that_is_not_there_is_refused_before_the_sequence_advances(oip: OipCaller) -> None:
    oip.infer("lstm", X[:2], sequence_id="outputs", sequence_start=True)
    for name in ("z", "h_n"):
        with pytest.raises(grpc.RpcError) as error:
            oip.stub.ModelInfer(request("lstm", {"x": X[2:]}, outputs=[name], sequence_id="outputs"))
        assert name in text_of(error.value)
    assert np.array_equal(oip.infer("lstm", X[2:], sequence_id="outputs"), oip.infer("lstm", X)[2:])
