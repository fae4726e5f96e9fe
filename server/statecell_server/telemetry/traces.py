"""Traces: a span for each call, sent to an OpenTelemetry collector. Needs the extra `otel`; the only place that knows it."""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from statecell_server.transport.watch import Begun, Over

FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
"""Codes that are a server's error, by OpenTelemetry's conventions; the others are the caller's."""


class Traces:
    """A Watch: `traces(begun)`. Spans wait in a queue of the library's, which drops what it has no room for.

    What OTEL_* variables say (service name, sampler, headers, certificates) holds as the library documents it.
    """

    def __init__(self, version: str, endpoint: str | None) -> None:
        """`endpoint`: as "http://localhost:4317", or None: as OTEL_EXPORTER_OTLP_ENDPOINT says."""
        resource = Resource.create({"service.name": "statecell-server", "service.version": version})
        detected = Resource.create()  # of the environment; "unknown_service" where that says nothing
        if not str(detected.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(detected)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("statecell_server", version)
        self._parents = TraceContextTextMapPropagator()

    def __call__(self, begun: Begun) -> Over:
        """As Watch."""
        parent = self._parents.extract({"traceparent": begun.traceparent}) if begun.traceparent else None
        method, _, path = begun.rpc.rpartition(" ")
        attributes: dict[str, str | int] = {"client.address": begun.peer}
        if begun.request_id:
            attributes["statecell.request_id"] = begun.request_id
        if method:
            attributes |= {"http.request.method": method, "url.path": path}
        else:
            service, _, rpc = path[1:].rpartition("/")
            attributes |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": rpc}
        name = method or path[1:]  # a path may have any number of values, a name must not
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)

        def over(code: str) -> None:
            span.set_attribute("http.response.status_code" if code.isdecimal() else "rpc.response.status_code", code)
            if code in FAULTS or code.startswith("5"):
                span.set_status(Status(StatusCode.ERROR, code))
            span.end()

        return over

    def close(self) -> None:
        """Sends what is left. For a thread of its own."""
        self._provider.shutdown()
