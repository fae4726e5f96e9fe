"""The command `statecell-server`.

The engine, and with it ONNX Runtime, is imported when it is to serve: help and shell completion answer at once.
"""

import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from statecell_server.config import Config, ConfigError
from statecell_server.device import Device

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
DEFAULTS = Config(models=Path())

# Without rich's markup: what stands in brackets is meant as it is written.
app = typer.Typer(
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def size(text: str) -> int:
    """ "512MiB" in bytes. Raises ConfigError."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text[:80]!r} is not a size; write it as 512MiB or 2GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def save_every(text: str) -> int:
    """ "every=8" as 8, "every_step" as 1. Raises ConfigError."""
    match = re.fullmatch(r"every_step|every=([0-9]{1,9})", text.strip())
    if match is None:
        raise ConfigError(f"--durability: {text[:80]!r} is no durability; write every_step, or every=8 for every 8 steps")
    return int(match[1] or 1)


def _size(option: str, text: str) -> int:
    try:
        return size(text)
    except ConfigError as error:
        raise ConfigError(f"--{option.replace('_', '-')}: {error}") from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, runtime = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--runtime: {text!r} is not NAME=RUNTIME, as in tagger=torchscript")
    return name, runtime


def _devices(texts: list[str]) -> dict[str, Device]:
    """By model; "" is the one of all others."""
    pairs = [text.rpartition("=") for text in texts]
    try:
        return {name: Device.parse(device) for name, _, device in pairs}
    except ValueError as error:
        raise ConfigError(f"--device: {error}; or NAME=DEVICE for one model, as in tagger=cuda:1") from error


def _level(text: str) -> str:
    if text.upper() not in LEVELS:
        raise typer.BadParameter(f"{text!r} is no level, expected {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return text.upper()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"statecell-server {version_of('statecell-server')}")
        raise typer.Exit


@app.command()
def serve(
    models: Annotated[Path, typer.Option(help="The model repository: <name>/<version>/model.onnx.")] = Path("models"),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = DEFAULTS.host,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.")] = DEFAULTS.port,
    http_port: Annotated[
        int | None,
        typer.Option(help="Port for HTTP: metrics, health, the Open Inference Protocol over REST; 0 for a free one."),
    ] = None,
    state_memory: Annotated[str, typer.Option(help="Memory for the states of a model's sessions, such as 512MiB.")] = "1GiB",
    spill_memory: Annotated[str, typer.Option(help="Memory for the states of idle sessions beyond that.")] = "1GiB",
    session_memory: Annotated[
        str, typer.Option(help="Memory for what is kept beside the states: last replies, ids, waiting requests.")
    ] = "1GiB",
    session_ttl: Annotated[float, typer.Option(help="Seconds after which an idle session is dropped.")] = DEFAULTS.session_ttl,
    max_batch: Annotated[int, typer.Option(help="Rows that run together at most.")] = DEFAULTS.max_batch,
    max_queue: Annotated[int, typer.Option(help="Steps of a model that may wait.")] = DEFAULTS.max_queue,
    max_message: Annotated[str, typer.Option(help="Largest request, such as 64MiB.")] = "64MiB",
    max_metadata: Annotated[str, typer.Option(help="Metadata of a call, uncompressed, such as 16KiB.")] = "16KiB",
    max_connections: Annotated[int, typer.Option(help="Connections at once.")] = DEFAULTS.max_connections,
    connection_memory: Annotated[
        str, typer.Option(help="Memory for what connections keep: calls, messages not complete or taken, answers not sent.")
    ] = "1GiB",
    idle_connection: Annotated[
        float, typer.Option(help="Seconds without a call, after which a client is asked to connect anew.")
    ] = DEFAULTS.idle_connection,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM: the server's certificate. Clients speak TLS then.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM: its key. New files are noticed within seconds.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM: clients must show a certificate that one of these has signed.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="File of the callers' tokens, as statecell-token makes it; nobody else is served.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine though anybody may call, or hear what is said.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads within one run of a model.")] = DEFAULTS.threads,
    drain_seconds: Annotated[
        float, typer.Option(help="Seconds to finish what is in flight at the end.")
    ] = DEFAULTS.drain_seconds,
    sequence_roll: Annotated[
        Path | None, typer.Option(help="File by which the next server knows the Open Inference Protocol's sequences as lost.")
    ] = None,
    store: Annotated[
        str,
        typer.Option(help="Where durable sessions are kept: valkey://host:port/db (or Redis); memory to try it out."),
    ] = DEFAULTS.store,
    durability: Annotated[
        str, typer.Option(help="every_step: no acknowledged step is ever lost. every=N: a crash may lose up to N-1 of them.")
    ] = "every_step",
    max_record: Annotated[
        str, typer.Option(help="Largest record of a durable session in the store: its state and its last reply.")
    ] = "16MiB",
    store_timeout: Annotated[
        float, typer.Option(help="Seconds after which the store counts as not answering.")
    ] = DEFAULTS.store_timeout,
    poll_models: Annotated[
        float, typer.Option(help="Seconds between looks for new versions in --models; 0 for none.")
    ] = DEFAULTS.poll_models,
    load_seconds: Annotated[
        float, typer.Option(help="Seconds after which a model that is still being loaded is given up.")
    ] = DEFAULTS.load_seconds,
    trial_load: Annotated[
        str,
        typer.Option(
            help="Whether a model is loaded and run in a process of its own first, which it may take down: always, never, or "
            "auto: where that costs under a second (model.onnx of up to 64 MiB on the CPU)."
        ),
    ] = "auto",
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="NAME=torchscript to run a model's model.pt though it has a model.onnx; repeatable."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="cpu, cuda, cuda:N, or auto: cuda:0 if it works, else the CPU. NAME=DEVICE for one model; repeatable. "
            "[default: cpu]"
        ),
    ] = None,
    device_memory: Annotated[
        str, typer.Option(help="Memory that a model may take on a GPU beside --state-memory, such as 4GiB; 0 for no limit.")
    ] = "0",
    state_arena: Annotated[
        str,
        typer.Option(help="Where states are: host, device (in the memory of the model's device), or auto: device on a GPU."),
    ] = DEFAULTS.state_arena,
    batch_variance: Annotated[
        str,
        typer.Option(
            help="For a model whose results depend on the batch: alone (every step runs alone), pad (all runs have --max-batch "
            "rows), share (give up equality to the last bit), or auto: pad on a GPU, else alone."
        ),
    ] = DEFAULTS.batch_variance,
    front: Annotated[
        str,
        typer.Option(help="What speaks gRPC: http2 (ours, a fraction of the cost of a call) or grpcio (the library's C core)."),
    ] = DEFAULTS.front,
    log_level: Annotated[str, typer.Option(callback=_level, help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Serve recurrent models over gRPC and keep their state between calls.

    Example: statecell-server --models models --host 127.0.0.1 --port 50051

    Prints "listening on HOST:PORT" when it is ready, and with --http-port "HTTP on HOST:PORT".

    Ctrl-C, SIGTERM or SIGHUP finish what is in flight and stop.
    """
    _hold_descriptors()
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        devices = _devices(device or [])
        config = Config(
            models=models,
            host=host,
            port=port,
            http_port=http_port,
            **{
                option: _size(option, text)
                for option, text in (
                    ("state_memory", state_memory),
                    ("spill_memory", spill_memory),
                    ("session_memory", session_memory),
                    ("max_message", max_message),
                    ("max_metadata", max_metadata),
                    ("max_record", max_record),
                    ("device_memory", device_memory),
                )
            },
            session_ttl=session_ttl,
            front=front,
            max_batch=max_batch,
            max_queue=max_queue,
            max_connections=max_connections,
            connection_memory=_size("--connection-memory", connection_memory),
            idle_connection=idle_connection,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            tokens=tokens,
            insecure=insecure,
            threads=threads,
            drain_seconds=drain_seconds,
            sequence_roll=sequence_roll,
            store=store,
            store_timeout=store_timeout,
            save_every=save_every(durability),
            poll_models=poll_models,
            load_seconds=load_seconds,
            trial_load=trial_load,
            runtimes=dict(_pair(text) for text in runtime or []),
            device=devices.pop("", DEFAULTS.device),
            devices=devices,
            state_arena=state_arena,
            batch_variance=batch_variance,
        )
    except ConfigError as error:
        _fail(error)
    _run(config)


def _run(config: Config) -> None:
    from statecell_server.app import App
    from statecell_server.engine.attempt import unfinished
    from statecell_server.runtimes.runtime import DeviceLost, LoadError
    from statecell_server.transport.address import AddressError

    async def serve() -> None:
        await App(config).run()

    try:
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(serve())
    except (ConfigError, LoadError, AddressError) as error:
        _fail(error)
    except DeviceLost as error:
        # Not by the usual way out: libraries would try to give back what is on a device that answers nothing any more.
        print(f"statecell-server: stopped, start it again: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if unfinished():  # a model that does not come to an end: Python would wait for no thread, and end under it
        logging.shutdown()
        os._exit(0)


def _hold_descriptors() -> None:
    """Who started this may have closed standard input, output or error: the next socket would be taken for it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _fail(error: Exception) -> NoReturn:
    with contextlib.suppress(OSError):  # nobody reads it: the exit code says it
        print(f"statecell-server: {' '.join(str(error).split())}", file=sys.stderr)
    raise typer.Exit(2) from error


def event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    app()
