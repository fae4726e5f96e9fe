"""What the server was told at start; validated once, changed by nobody."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from statecell_server.device import Device

STORES = ("valkey://", "valkeys://", "redis://", "rediss://", "unix://")
RUNTIMES = ("onnxruntime", "torchscript")
ARENAS = ("auto", "host", "device")
VARIANCES = ("auto", "alone", "pad", "share")
FRONTS = ("http2", "grpcio")
TRIALS = ("auto", "always", "never")

_DAY = 86_400.0
LIMITS: dict[str, tuple[float, float]] = {
    "state_memory": (1, 1 << 50),
    "spill_memory": (0, 1 << 50),
    "session_memory": (1, 1 << 50),
    "device_memory": (0, 1 << 50),
    "max_metadata": (1 << 10, 128 << 10),
    "max_connections": (1, 10_000_000),
    "connection_memory": (1 << 20, 1 << 50),
    "idle_connection": (1, 1e9),
    "max_message": (1, (1 << 31) - 1),  # Protocol Buffers' own limit
    "max_record": (1 << 10, 512 << 20),  # the store's own limit
    "max_batch": (1, 1 << 16),
    "max_queue": (1, 1 << 30),
    "threads": (1, 1024),
    "session_ttl": (1e-3, 3650 * _DAY),
    "store_timeout": (1e-3, 3600),
    "drain_seconds": (0, _DAY),
    "poll_models": (0, _DAY),
    "load_seconds": (0.1, _DAY),
}
"""The least and the most of each number."""


class ConfigError(ValueError):
    """The operator's fault: the message names the option, what it was and what it may be."""


@dataclass(frozen=True)
class Config:
    """Sizes in bytes, times in seconds."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 50051
    http_port: int | None = None  # none: there is no such port
    state_memory: int = 1 << 30
    spill_memory: int = 1 << 30
    session_memory: int = 1 << 30
    session_ttl: float = 3600.0
    max_batch: int = 256
    max_queue: int = 16_384
    max_message: int = 64 << 20
    max_metadata: int = 16 << 10
    max_connections: int = 10_000
    connection_memory: int = 1 << 30
    idle_connection: float = 3600.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    insecure: bool = False  # that it is known that whoever reaches the port may do anything
    threads: int = 1
    drain_seconds: float = 10.0
    sequence_roll: Path | None = None
    store: str = field(default="", repr=False)  # it may have a password in it
    store_timeout: float = 0.5
    save_every: int = 1
    max_record: int = 16 << 20
    poll_models: float = 0.0
    load_seconds: float = 120.0  # for a model to be tried, and again to be loaded
    trial_load: str = "never"  # whether models are tried in a process of their own; the command's default is auto
    runtimes: Mapping[str, str] = field(default_factory=dict)  # of models that are not to run in the first they can
    device: Device = field(default_factory=Device)
    devices: Mapping[str, Device] = field(default_factory=dict)  # of models that are not to run on `device`
    device_memory: int = 0  # for weights and intermediate results of a model on a GPU; 0: as much as they need
    state_arena: str = "auto"  # host: NumPy arrays; device: its own memory; auto: device on a GPU
    front: str = "http2"  # http2: our own; grpcio: the library's
    batch_variance: str = "auto"  # see invariance.decide; auto: pad on a GPU, alone on the CPU

    def __post_init__(self) -> None:
        if not self.models.is_dir():
            raise ConfigError(
                f"--models {self.models} is not a folder; make one with: statecell-export examples --out models "
                "(in a container, mount yours there: -v $PWD/models:/models:ro)"
            )
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port is {self.port}, expected 0 (a free one) to 65535")
        if self.http_port is not None and not (0 <= self.http_port <= 65535 and (not self.port or self.http_port != self.port)):
            raise ConfigError(f"--http-port is {self.http_port}, expected 0 (a free one) to 65535, and another one than --port")
        for option, (least, most) in LIMITS.items():
            number = getattr(self, option)
            if not least <= number <= most:  # nor is NaN
                raise ConfigError(f"--{option.replace('_', '-')} is {_shown(number)}, expected {least:g} to {most:g}")
        if not 1 <= self.save_every <= 1_000_000:
            raise ConfigError(
                f"--durability is every={_shown(self.save_every)}, expected every_step or every=N with N of 1 to 1000000"
            )
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca is not None and self.tls_cert is None):
            raise ConfigError(
                f"--tls-cert is {self.tls_cert}, --tls-key is {self.tls_key}, --tls-client-ca is {self.tls_client_ca}; "
                "expected a certificate and its key together, and the last one only with them"
            )
        self._check_store()
        for name, runtime in self.runtimes.items():
            if runtime not in RUNTIMES:
                raise ConfigError(f"--runtime {name}={runtime}: there is no such runtime, expected {' or '.join(RUNTIMES)}")
        for option, words in (
            ("front", FRONTS),
            ("state_arena", ARENAS),
            ("batch_variance", VARIANCES),
            ("trial_load", TRIALS),
        ):
            if getattr(self, option) not in words:
                raise ConfigError(f"--{option.replace('_', '-')} is {getattr(self, option)!r}, expected {' or '.join(words)}")

    def _check_store(self) -> None:
        if not self.store or self.store == "memory":
            return
        if not self.store.startswith(STORES):
            raise ConfigError(f"--store is {without_secrets(self.store)!r}, expected memory or valkey://host:port/db")
        # Here, for a library's words on a URL that it cannot read have pieces of the password in them.
        scheme, _, rest = self.store.partition("://")
        place = rest.rpartition("@")[2].partition("?")[0]
        host, _, base = place.partition("/")
        port = re.fullmatch(r"(?:\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?", host)
        if scheme != "unix" and (port is None or int(port[1] or 0) > 65535 or not re.fullmatch("[0-9]{0,5}", base)):
            raise ConfigError(
                f"--store is {without_secrets(self.store)!r}, expected valkey://host:port/db, where port and db are numbers"
            )
        if "/" in rest.rpartition("@")[0] or (scheme != "unix" and "#" in rest):
            raise ConfigError(
                f"--store {without_secrets(self.store)!r} has '/' or '#' in its user or password: write them as %2F and %23"
            )


def without_secrets(store: str) -> str:
    """The store's URL as it may be shown: no user, no password, no options."""
    scheme, colon, rest = store.partition("://") if "://" in store else ("", "", store)
    scheme = scheme if re.fullmatch("[a-z]{1,9}", scheme) else ""
    place, question, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}{colon if scheme else ''}{'***@' if '@' in store else ''}{place}{'?***' if question else ''}"


def _shown(number: float) -> str:
    # Python refuses to write out an integer of thousands of digits.
    return str(number) if isinstance(number, float) or abs(number) < 10**20 else "a number of more than 20 digits"
