"""Sources: where the figures are, all of them kept by whoever does the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from statecell_server.durability.circuit_breaker import CircuitBreaker
from statecell_server.engine.engine import Engine
from statecell_server.transport.http2.memory import Memory


class Listener(Protocol):
    """A gRPC server."""

    @property
    def memory(self) -> Memory: ...
    @property
    def connections(self) -> int | None:
        """None: it does not say."""

    @property
    def closed(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Sources:
    """`told`: errors by reason. `requests`: of the Open Inference Protocol, by model and version: (count, ns), good and bad."""

    engine: Engine
    store: CircuitBreaker | None
    listener: Listener
    told: Mapping[str, int]
    requests: Callable[[], Mapping[tuple[str, str], tuple[tuple[int, int], tuple[int, int]]]]
    http_connections: Callable[[], int]
    ready: Callable[[], bool]
    build: Mapping[str, str] = field(default_factory=dict)
