"""Which requests take the short way: those that the general way would read as no more than one step of their sequence."""

import itertools
from collections.abc import Iterator

import pytest
from statecell.oip import inference_pb2 as pb
from statecell_server.errors import InvalidRequest
from statecell_server.protocols.oip.rows import _said
from statecell_server.protocols.oip.wire import read_request, sequence_of

FLAGS = ("sequence_start", "sequence_end", "sequence_replace", "durable")


def requests() -> Iterator[pb.ModelInferRequest]:
    """Every way of setting the parameters that are known, and some that are not."""
    ids = (
        {"int64_param": 7},
        {"uint64_param": 7},
        {"string_param": "a/b"},
        {"string_param": "a" * 257},
        {"int64_param": 0},
        {"bool_param": True},
        None,
    )
    for chosen, flags in itertools.product(ids, itertools.product((None, False, True, "yes"), repeat=len(FLAGS))):
        request = pb.ModelInferRequest(model_name="lstm", raw_input_contents=[bytes(40)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 10])
        request.parameters["priority"].int64_param = 1
        for key, value in (chosen or {}).items():
            setattr(request.parameters["sequence_id"], key, value)
        for name, flag in zip(FLAGS, flags, strict=True):
            if isinstance(flag, bool):
                request.parameters[name].bool_param = flag
            elif flag is not None:
                request.parameters[name].string_param = flag
        yield request
        request.parameters["step_index"].int64_param = 3
        yield request


def test_the_short_way_takes_what_the_general_way_reads_as_a_step_of_a_sequence_and_nothing_else() -> None:
    taken = 0
    for request in requests():
        said = _said(request)
        try:
            read = read_request(request)
        except InvalidRequest:
            read = None
        plain = read is not None and not read.durable and read.step_index is None
        assert (said is not None) == plain, request
        if said is not None:
            assert read is not None
            assert said == (read.key, read.start, read.end)
            assert said[0] == sequence_of(request)
            taken += 1
    assert taken == 3 * 3 * 3 * 3 * 2  # ids; start, end, replace: anything that is a flag; durable: not there or false


def test_a_parameter_without_a_value_is_left_to_the_general_way() -> None:
    request = pb.ModelInferRequest(model_name="lstm", raw_input_contents=[bytes(40)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1, 10])
    request.parameters["sequence_id"].int64_param = 7
    assert _said(request) == (("lstm", "7"), False, False)
    request.parameters["sequence_replace"].SetInParent()
    assert _said(request) is None
    with pytest.raises(InvalidRequest):
        read_request(request)
