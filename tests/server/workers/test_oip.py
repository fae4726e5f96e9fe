"""The Open Inference Protocol of a server with several workers."""

import grpc
import numpy as np
import pytest
from statecell.oip import inference_pb2 as pb

from tests.conftest import Server
from tests.server.oip_caller import OipCaller, arrays, request
from tests.server.workers.conftest import Crowd

RANDOM = np.random.default_rng(4)


@pytest.fixture
def callers(crew: Server, crowd: Crowd) -> list[OipCaller]:
    """On the connections of the crowd, which come to at least two workers."""
    return [OipCaller(crew.address, caller.channel) for caller in crowd.callers]


def x_of(steps: int = 1) -> np.ndarray:
    return RANDOM.standard_normal((steps, 1, 10)).astype("float32")


def test_sequences_begun_here_are_stepped_and_ended_there(callers: list[OipCaller]) -> None:
    for number in range(12):
        inputs = [x_of() for _ in range(6)]
        outputs = []
        for step, x in enumerate(inputs):
            flags = {"sequence_start": True} if step == 0 else {"sequence_end": True} if step == 5 else {}
            for caller in (callers[(number + step) % len(callers)], callers[(number + step + 1) % len(callers)]):
                # The second time it is a repetition, by whatever worker.
                y = caller.infer("lstm", x, sequence_id=f"s{number}", request_id=f"r{step}", **flags)
                outputs.append(y)
        assert all(np.array_equal(a, b) for a, b in zip(outputs[::2], outputs[1::2], strict=True))
        expected = callers[0].infer("lstm", np.concatenate(inputs))
        assert np.allclose(np.concatenate(outputs[::2]), expected, atol=1e-6)
        with pytest.raises(grpc.RpcError) as raised:
            callers[number % len(callers)].infer("lstm", inputs[0], sequence_id=f"s{number}")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_stream_of_many_sequences_is_answered_as_by_one_worker(callers: list[OipCaller]) -> None:
    names = [f"t{number}" for number in range(8)]
    data = {name: [x_of() for _ in range(20)] for name in names}
    messages = [
        request("lstm", {"x": data[name][step]}, request_id=f"{name}/{step}", sequence_id=name, sequence_start=step == 0)
        for step in range(20)
        for name in names
    ]
    answers = callers[0].stream(messages)
    assert len(answers) == len(messages)
    assert not any(answer.error_message for answer in answers)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for answer in answers:
        name, _, step = answer.infer_response.id.partition("/")
        assert int(step) == len(seen[name]), "a sequence's answers are in its order"
        seen[name].append(arrays(answer.infer_response)["y"])
    for name in names:
        assert np.allclose(np.concatenate(seen[name]), callers[-1].infer("lstm", np.concatenate(data[name])), atol=1e-6)


def test_models_are_loaded_and_unloaded_by_all_or_none_and_counted_by_all(callers: list[OipCaller]) -> None:
    def ready() -> list[bool]:
        return [caller.stub.ModelReady(pb.ModelReadyRequest(name="gru")).ready for caller in callers]

    for number in range(6):  # in both workers
        callers[number % len(callers)].infer("gru", x_of(), sequence_id=f"u{number}", sequence_start=True)
    [stats] = callers[0].stub.ModelStatistics(pb.ModelStatisticsRequest(name="gru")).model_stats
    [same] = callers[-1].stub.ModelStatistics(pb.ModelStatisticsRequest(name="gru")).model_stats
    assert stats.inference_stats.success.count == same.inference_stats.success.count == 6
    for caller in callers:
        with pytest.raises(grpc.RpcError) as raised:
            caller.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gru"))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert all(ready()), "nobody has unloaded what another keeps"
    for number in range(6):
        callers[-1 - number % len(callers)].infer("gru", x_of(), sequence_id=f"u{number}", sequence_end=True)
    callers[0].stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="gru"))
    assert not any(ready())
    callers[-1].stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="gru"))
    assert all(ready())
