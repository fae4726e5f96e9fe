"""Every metric that /metrics has, in the order in which it shows them. docs/metrics.md is this table."""

from typing import NamedTuple

MODEL = ("model", "version")


class Metric(NamedTuple):
    """`name`: without the suffixes of its type, such as _total."""

    name: str
    type: str  # gauge, counter or histogram
    labels: tuple[str, ...]
    text: str

    @property
    def shown(self) -> str:
        """As a query names it; of a histogram, what stands before _bucket, _sum and _count."""
        return f"{self.name}_total" if self.type == "counter" else self.name


METRICS = tuple(
    Metric(f"statecell_{name}", kind, labels, text)
    for name, kind, labels, text in (
        ("build_info", "gauge", ("version", "python", "front"), "1; the labels say what runs"),
        ("ready", "gauge", (), "1 while the server takes requests, as /health/ready says"),
        ("model_info", "gauge", (*MODEL, "runtime", "device", "digest"), "1 for each version that is served"),
        ("requests", "counter", MODEL, "Requests whose steps are over; a message that steps several sessions is one"),
        ("steps", "counter", MODEL, "Sessions' steps that are over, and stateless calls"),
        ("steps_failed", "counter", MODEL, "Those of them that changed nothing, cancelled ones included"),
        ("steps_waiting", "gauge", MODEL, "Steps in the queue or running (--max-queue is the most)"),
        ("batch_rows", "histogram", MODEL, "Rows of each run of the model"),
        ("run_seconds", "histogram", MODEL, "Time of each run of the model"),
        ("queue_seconds", "histogram", MODEL, "Of each batch: how long its first request waited for the run to begin"),
        ("oip_requests", "counter", (*MODEL, "outcome"), "Open Inference Protocol, gRPC and REST: success or failure"),
        ("oip_request_seconds", "counter", (*MODEL, "outcome"), "Time from their arrival to their answers, together"),
        ("errors", "counter", ("reason",), "Errors that clients were told, by any protocol"),
        ("sessions", "gauge", (*MODEL, "state"), "Live sessions: stepping, idle, or spilled out of the arena"),
        ("sessions_durable", "gauge", MODEL, "Live sessions that have a record in the store"),
        ("sessions_created", "counter", MODEL, "Sessions that became known here, those from the store included"),
        ("sessions_expired", "counter", MODEL, "Sessions dropped after --session-ttl"),
        ("sessions_evicted", "counter", MODEL, "Idle durable sessions let go to make room; their next step loads them"),
        ("sessions_spilled", "counter", MODEL, "States moved out of the arena to make room"),
        ("sessions_taken_over", "counter", (), "Durable sessions that another server had before"),
        ("state_bytes", "gauge", MODEL, "States in the arena"),
        ("state_limit_bytes", "gauge", MODEL, "What --state-memory has room for"),
        ("session_memory_bytes", "gauge", (), "Kept beside the states: replies, ids, waiting requests"),
        ("session_memory_limit_bytes", "gauge", (), "--session-memory"),
        ("connection_memory_bytes", "gauge", (), "Kept by connections beyond their own 64 KiB"),
        ("connection_memory_limit_bytes", "gauge", (), "--connection-memory"),
        ("connections", "gauge", ("protocol",), "Open connections: grpc (not with --front grpcio) and http"),
        ("connections_cut_off", "counter", ("code",), "Connections closed because their clients broke a rule or flooded"),
        ("store_call_seconds", "histogram", (), "Calls of the store that were answered, with --store"),
        ("store_unanswered", "counter", (), "Calls of the store that were not, with --store"),
        ("store_circuit_open", "gauge", (), "1 while the store is left alone because it does not answer, with --store"),
    )
)
