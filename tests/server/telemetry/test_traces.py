"""Traces, as a collector gets them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from statecell.tensor import pack
from statecell.v1 import inference_pb2 as pb

from tests.conftest import LIMIT, Serve
from tests.server.caller import Caller

WHY = "needs OpenTelemetry: pip install 'statecell-server[otel]'"
collector_pb = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=WHY)
collector_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc", reason=WHY)

X = np.zeros((1, 1, 10), np.float32)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER = 2
"""SPAN_KIND_SERVER."""


class Collector:
    """What OTLP's TraceService is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []

    def Export(self, request: Any, _: grpc.ServicerContext) -> Any:  # noqa: N802 - the rpc's name
        for found in request.resource_spans:
            self.resources.append({a.key: a.value.string_value for a in found.resource.attributes})
            self.spans += [span for scope in found.scope_spans for span in scope.spans]
        return collector_pb.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """With its endpoint."""
    service, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    collector_grpc.add_TraceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def attributes(span: Any) -> dict[str, str]:
    return {a.key: a.value.string_value for a in span.attributes}


@pytest.mark.parametrize("front", ["http2", "grpcio"])
def test_each_call_is_a_span_within_the_callers_trace(
    serve: Serve, lstm_only: Path, collector: tuple[Collector, str], front: str
) -> None:
    service, endpoint = collector
    with serve("--otlp-endpoint", endpoint, "--front", front, models=lstm_only) as server:
        caller = Caller(server.address)
        session = caller.create("lstm")
        request = pb.StepRequest(session_id=session, inputs=[pack("x", X)])
        caller.stub.Step(request, metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "order-7")])
        caller.stream([pb.StreamStepsRequest(session_ids=[session], inputs=[pack("x", X)])])
        with pytest.raises(grpc.RpcError):
            caller.step("nobody", X)
        caller.channel.close()
        assert server.stop() == 0
    names = [span.name.removeprefix("statecell.v1.InferenceService/") for span in service.spans]
    assert names == ["CreateSession", "Step", "StreamSteps", "Step"]
    assert all(span.kind == SERVER and span.end_time_unix_nano >= span.start_time_unix_nano > 0 for span in service.spans)
    created, stepped, _, failed = service.spans
    assert (stepped.trace_id.hex(), stepped.parent_span_id.hex()) == (TRACE, PARENT)
    assert not created.parent_span_id
    found = attributes(stepped)
    assert (found["rpc.service"], found["rpc.method"]) == ("statecell.v1.InferenceService", "Step")
    assert (found["rpc.response.status_code"], found["statecell.request_id"]) == ("OK", "order-7")
    assert attributes(failed)["rpc.response.status_code"] == "NOT_FOUND"
    assert failed.status.code == 0  # the caller's fault is no error of the server's
    assert service.resources[0]["service.name"] == "statecell-server"
    assert session not in str(service.spans)


def test_the_standard_environment_turns_them_on_and_names_the_service(
    serve: Serve, lstm_only: Path, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, endpoint = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "taggers")
    with serve(models=lstm_only) as server:
        caller = Caller(server.address)
        caller.create("lstm")
        caller.channel.close()
        assert server.stop() == 0
    assert [span.name for span in service.spans] == ["statecell.v1.InferenceService/CreateSession"]
    assert service.resources[0]["service.name"] == "taggers"


def test_a_collector_that_is_not_there_holds_up_neither_calls_nor_the_end(serve: Serve, lstm_only: Path) -> None:
    with serve("--otlp-endpoint", "http://127.0.0.1:9", models=lstm_only) as server:
        caller = Caller(server.address)
        session = caller.create("lstm")
        for _ in range(100):
            caller.step(session, X)
        caller.channel.close()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < min(LIMIT, 10)
