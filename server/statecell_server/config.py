"""What the server was told at start; validated once, changed by nobody. Each option is said here, and nowhere else."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from statecell_server.device import Device
from statecell_server.options import (
    DEVICE,
    DURABILITY,
    FILE,
    LEVEL,
    WORKERS,
    YES,
    Option,
    choice,
    option,
    seconds,
    shown,
    size,
    text,
    url,
    whole,
)

STORES = ("valkey://", "valkeys://", "redis://", "rediss://", "unix://")

OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_DAY = 86_400.0
_MOST = 1 << 50


class ConfigError(ValueError):
    """The operator's fault: the message names the option, what it was and what it may be."""


def _store_shown(store: str) -> str:
    """The store's URL as a file may have it: without its password and its options."""
    scheme, mark, rest = store.partition("://")
    user, at, place = rest.rpartition("@")
    name = user.partition(":")[0]
    return f"{scheme}{mark}{f'{name}@' if at and name else ''}{place.partition('?')[0]}"


@dataclass(frozen=True)
class Config:
    """Sizes in bytes, times in seconds. `config.of("charlm")`: that model's, where it has settings of its own."""

    models: Path = option(Path("models"), FILE, "The model repository: <name>/<version>/model.onnx.", key="model_repository")
    host: str = option("127.0.0.1", text("HOST"), "Address to listen on; 0.0.0.0 for all.")
    port: int = option(50051, whole(0, 65535, "0 (a free one) to 65535"), "Port to listen on; 0 for a free one.")
    http_port: int | None = option(
        None,
        whole(0, 65535, "0 (a free one) to 65535"),
        "Port for HTTP: metrics, health, the Open Inference Protocol over REST; 0 for a free one.",
    )
    state_memory: int = option(
        1 << 30, size(1, _MOST), "Memory for the states of a model's sessions, such as 512MiB.", per_model=True
    )
    spill_memory: int = option(1 << 30, size(0, _MOST), "Memory for the states of idle sessions beyond that.", per_model=True)
    session_memory: int = option(
        1 << 30, size(1, _MOST), "Memory for what is kept beside the states: last replies, ids, waiting requests."
    )
    session_ttl: float = option(
        3600.0, seconds(1e-3, 3650 * _DAY), "Seconds after which an idle session is dropped.", per_model=True
    )
    max_batch: int = option(256, whole(1, 1 << 16), "Rows that run together at most.", per_model=True)
    max_queue: int = option(16_384, whole(1, 1 << 30), "Steps of a model that may wait.", per_model=True)
    # Protocol Buffers' own limit
    max_message: int = option(64 << 20, size(1, (1 << 31) - 1), "Largest request, such as 64MiB.")
    max_metadata: int = option(16 << 10, size(1 << 10, 128 << 10), "Metadata of a call, uncompressed, such as 16KiB.")
    max_connections: int = option(10_000, whole(1, 10_000_000), "Connections at once.")
    connection_memory: int = option(
        1 << 30,
        size(1 << 20, _MOST),
        "Memory for what connections keep: calls, messages not complete or taken, answers not sent.",
    )
    idle_connection: float = option(
        3600.0, seconds(1, 1e9), "Seconds without a call, after which a client is asked to connect anew."
    )
    tls_cert: Path | None = option(None, FILE, "PEM: the server's certificate. Clients speak TLS then.")
    tls_key: Path | None = option(None, FILE, "PEM: its key. New files are noticed within seconds.")
    tls_client_ca: Path | None = option(None, FILE, "PEM: clients must show a certificate that one of these has signed.")
    tokens: Path | None = option(None, FILE, "File of the callers' tokens, as statecell-token makes it; nobody else is served.")
    insecure: bool = option(False, YES, "Listen beyond this machine though anybody may call, or hear what is said.")
    state_key: Path | None = option(
        None, FILE, "File of keys, one a line, that seal snapshots and records of the store: no others are taken then."
    )
    threads: int = option(1, whole(1, 1024), "Threads within one run of a model.", per_model=True)
    drain_seconds: float = option(10.0, seconds(0, _DAY), "Seconds to finish what is in flight at the end.")
    sequence_roll: Path | None = option(
        None, FILE, "File by which the next server knows the Open Inference Protocol's sequences as lost."
    )
    store: str = option(
        "",
        text("URL", "memory or valkey://host:port/db"),
        "Where durable sessions are kept: valkey://host:port/db (or Redis); memory to try it out.",
        secret=_store_shown,
    )
    store_password_file: Path | None = option(
        None, FILE, "File with the store's password; a user's name may be in the URL: valkey://user@host."
    )
    store_timeout: float = option(0.5, seconds(1e-3, 3600), "Seconds after which the store counts as not answering.")
    save_every: int = option(
        1,
        DURABILITY,
        "every_step: no acknowledged step is ever lost. every=N: a crash may lose up to N-1 of them.",
        name="durability",
    )
    # the store's own limit
    max_record: int = option(
        16 << 20,
        size(1 << 10, 512 << 20),
        "Largest record of a durable session in the store: its state and its last reply.",
        per_model=True,
    )
    poll_models: float = option(0.0, seconds(0, _DAY), "Seconds between looks for new versions in --models; 0 for none.")
    load_seconds: float = option(
        120.0,  # for a model to be tried, and again to be loaded
        seconds(0.1, _DAY),
        "Seconds after which a model that is still being loaded is given up.",
    )
    trial_load: str = option(
        "never",
        choice("auto", "always", "never"),
        "Whether a model is loaded and run in a process of its own first, which it may take down: always, never, or "
        "auto: where that costs under a second (model.onnx of up to 64 MiB on the CPU).",
        per_model=True,
        start="auto",
    )
    runtime: str = option(
        "auto",
        choice("auto", "onnxruntime", "torchscript"),
        "torchscript to run a model's model.pt though it has a model.onnx; auto: model.onnx where there is one.",
        per_model=True,
    )
    device: Device = option(Device(), DEVICE, "cpu, cuda, cuda:N, or auto: cuda:0 if it works, else the CPU.", per_model=True)
    device_memory: int = option(
        0,  # as much as weights and intermediate results need
        size(0, _MOST),
        "Memory that a model may take on a GPU beside --state-memory, such as 4GiB; 0 for no limit.",
        per_model=True,
    )
    state_arena: str = option(
        "auto",
        choice("auto", "host", "device"),
        "Where states are: host, device (in the memory of the model's device), or auto: device on a GPU.",
        per_model=True,
    )
    batch_variance: str = option(
        "auto",  # see invariance.decide
        choice("auto", "alone", "pad", "share"),
        "For a model whose results depend on the batch: alone (every step runs alone), pad (all runs have --max-batch "
        "rows), share (give up equality to the last bit), or auto: pad on a GPU, else alone.",
        per_model=True,
    )
    non_finite: str = option(
        "refuse",
        choice("refuse", "allow"),
        "NaN and infinity in inputs and states: refuse, or allow: they go through the model, and stay in that session's state.",
        per_model=True,
    )
    sequence_start: str = option(
        "refuse",
        choice("refuse", "restart"),
        "sequence_start on a live sequence of the Open Inference Protocol: refuse, or restart, as Triton does.",
        per_model=True,
    )
    workers: int = option(1, WORKERS, "Processes that share the port, each with its own models and sessions; auto: one a core.")
    worker: int = 0
    """Which of them this process is."""
    front: str = option(
        "http2",
        choice("http2", "grpcio"),
        "What speaks gRPC: http2 (ours, a fraction of the cost of a call) or grpcio (the library's C core).",
    )
    log_level: str = option("INFO", LEVEL, "DEBUG, INFO, WARNING or ERROR.")
    log_format: str = option("text", choice("text", "json"), "text, or json: an object a line.")
    access_log: bool = option(False, YES, "A line of the log for each call: what, how it ended, how long it took, from where.")
    otlp_endpoint: str | None = option(
        None,
        url("http", "https"),
        "Collector that gets a span for each call, over gRPC, such as http://localhost:4317. [default: OTEL_* variables]",
    )
    for_models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model: the fields that are not as for all others. Options with `per_model` only."""

    def of(self, model: str) -> Self:
        """The settings of one model."""
        own = self.for_models.get(model)
        return self if own is None else replace(self, for_models={}, **own)

    @property
    def traced(self) -> bool:
        """Whether calls are to be spans: by --otlp-endpoint or OpenTelemetry's own variables."""
        return self.otlp_endpoint is not None or any(map(os.environ.get, OTLP_VARIABLES))

    def one(self, name: str, model: str) -> Any:
        """The field `name` as a model has it."""
        return self.for_models.get(model, {}).get(name, getattr(self, name))

    @property
    def longest_ttl(self) -> float:
        """Seconds: of the models' and the server's `session_ttl`."""
        return max([self.session_ttl, *(float(self.one("session_ttl", model)) for model in self.for_models)])

    def __post_init__(self) -> None:
        if not self.models.is_dir():
            raise ConfigError(
                f"--models {self.models} is not a folder; make one with: statecell-export examples --out models "
                "(in a container, mount yours there: -v $PWD/models:/models:ro)"
            )
        for name, one in OPTIONS.items():
            value = getattr(self, name)
            if value is not None:
                try:
                    one.kind.read(value if isinstance(value, Device) else one.kind.show(value))
                except ValueError as error:
                    came = shown(value if one.secret is None else without_secrets(str(value)))
                    raise ConfigError(f"{one.flag} is {came}, expected {error}") from None
        if self.http_port is not None and self.http_port and self.http_port == self.port:
            raise ConfigError(f"--http-port is {self.http_port}, as --port is; expected another one, or 0 (a free one)")
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca is not None and self.tls_cert is None):
            raise ConfigError(
                f"--tls-cert is {self.tls_cert}, --tls-key is {self.tls_key}, --tls-client-ca is {self.tls_client_ca}; "
                "expected a certificate and its key together, and the last one only with them"
            )
        self._check_store()
        self._check_workers()

    def _check_workers(self) -> None:
        if self.workers == 1:
            return
        for flag, bad, why in (
            ("--http-port", self.http_port is not None, "HTTP and its metrics are of one process"),
            ("--front", self.front != "http2", "only http2 passes calls on"),
            ("--tokens", self.tokens is not None, "whose a call is would not be passed on"),
            ("--store", self.store == "memory", "memory is of one process; use valkey://host:port/db"),
        ):
            if bad:
                raise ConfigError(f"--workers is {self.workers} and does not go with this {flag}: {why}; leave one out")

    def _check_store(self) -> None:
        if not self.store or self.store == "memory":
            if self.store_password_file is not None:
                raise ConfigError(
                    f"--store-password-file is {self.store_password_file}, and --store is {self.store!r}, which has no "
                    "password; expected --store valkey://host:port/db with it"
                )
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
        user = rest.rpartition("@")[0]
        if self.store_password_file is not None and (":" in user or "password=" in rest):
            raise ConfigError(
                f"--store {without_secrets(self.store)!r} has a password, and --store-password-file is "
                f"{self.store_password_file}; expected one of them: the file keeps it out of the process list"
            )


OPTIONS: Mapping[str, Option] = {
    f.name: replace(f.metadata["option"], name=f.metadata["option"].name or f.name)
    for f in fields(Config)
    if "option" in f.metadata
}
"""By field."""


def without_secrets(store: str) -> str:
    """The store's URL as it may be shown: no user, no password, no options."""
    scheme, colon, rest = store.partition("://") if "://" in store else ("", "", store)
    scheme = scheme if re.fullmatch("[a-z]{1,9}", scheme) else ""
    place, question, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}{colon if scheme else ''}{'***@' if '@' in store else ''}{place}{'?***' if question else ''}"
