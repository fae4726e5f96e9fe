"""What the server was told at start; validated once, changed by nobody."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from statecell_server.device import Device

STORES = ("valkey://", "valkeys://", "redis://", "rediss://", "unix://")
RUNTIMES = ("onnxruntime", "torchscript")
ARENAS = ("auto", "host", "device")
VARIANCES = ("auto", "alone", "pad", "share")
FRONTS = ("http2", "grpcio")


class ConfigError(ValueError):
    """The operator's fault: the message names the option, what it was and what it may be."""


@dataclass(frozen=True)
class Config:
    """Sizes in bytes, times in seconds."""

    models: Path
    host: str = "127.0.0.1"
    port: int = 50051
    state_memory: int = 1 << 30
    spill_memory: int = 1 << 30
    session_memory: int = 1 << 30
    session_ttl: float = 3600.0
    max_batch: int = 256
    max_queue: int = 16_384
    max_message: int = 64 << 20
    threads: int = 1
    drain_seconds: float = 10.0
    sequence_roll: Path | None = None
    store: str = ""
    store_timeout: float = 0.5
    save_every: int = 1
    poll_models: float = 0.0
    runtimes: Mapping[str, str] = field(default_factory=dict)  # of models that are not to run in the first they can
    device: Device = field(default_factory=Device)
    devices: Mapping[str, Device] = field(default_factory=dict)  # of models that are not to run on `device`
    device_memory: int = 0  # for weights and intermediate results of a model on a GPU; 0: as much as they need
    state_arena: str = "auto"  # host: NumPy arrays; device: its own memory; auto: device on a GPU
    front: str = "http2"  # http2: our own; grpcio: the library's
    batch_variance: str = "auto"  # see invariance.decide; auto: pad on a GPU, alone on the CPU

    def __post_init__(self) -> None:
        if not self.models.is_dir():
            raise ConfigError(f"--models {self.models} is not a folder; make one with: statecell-export examples --out models")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port is {self.port}, expected 0 (a free one) to 65535")
        sizes = ("state_memory", "session_memory", "max_batch", "max_queue", "max_message", "threads")
        for option in (*sizes, "session_ttl", "store_timeout"):
            if getattr(self, option) <= 0:
                raise ConfigError(f"--{option.replace('_', '-')} is {getattr(self, option)}, expected more than 0")
        for option in ("spill_memory", "drain_seconds", "poll_models", "device_memory"):
            if getattr(self, option) < 0:
                raise ConfigError(f"--{option.replace('_', '-')} is {getattr(self, option)}, expected 0 or more")
        if self.save_every < 1:
            raise ConfigError(f"--durability is every={self.save_every}, expected every_step or every=N with N of 1 or more")
        if self.store and self.store != "memory" and not self.store.startswith(STORES):
            raise ConfigError(f"--store is {self.store!r}, expected memory or valkey://host:port/db")
        for name, runtime in self.runtimes.items():
            if runtime not in RUNTIMES:
                raise ConfigError(f"--runtime {name}={runtime}: there is no such runtime, expected {' or '.join(RUNTIMES)}")
        for option, words in (("front", FRONTS), ("state_arena", ARENAS), ("batch_variance", VARIANCES)):
            if getattr(self, option) not in words:
                raise ConfigError(f"--{option.replace('_', '-')} is {getattr(self, option)!r}, expected {' or '.join(words)}")
