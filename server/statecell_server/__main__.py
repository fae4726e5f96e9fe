"""The command `statecell-server`.

The engine, and with it ONNX Runtime, is imported when it is to serve: help and shell completion answer at once.
"""

import asyncio
import contextlib
import inspect
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from statecell_server import logs
from statecell_server.config import OPTIONS, Config, ConfigError
from statecell_server.options import YES, Option
from statecell_server.settings import CONFIG, STARTS, read

log = logging.getLogger("statecell_server")

# Without rich's markup: what stands in brackets is meant as it is written.
app = typer.Typer(
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"statecell-server {version_of('statecell-server')}")
        raise typer.Exit


def _parameters() -> list[inspect.Parameter]:
    """Of the command: a flag for each option, and those that are the command's own."""
    own: list[tuple[str, Any, Any]] = [
        ("config", Path | None, typer.Option("--config", help=f"TOML file of settings; also {CONFIG}. Flags come first.")),
        ("print_config", bool, typer.Option("--print-config", help="Print all settings and where each is from, and exit.")),
        ("version", bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")),
    ]
    flags = [*((name, *_flag(name, option)) for name, option in OPTIONS.items()), *own]
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if annotation is bool else None,
            annotation=Annotated[annotation, info],
        )
        for name, annotation, info in flags
    ]


def _flag(name: str, option: Option) -> tuple[Any, Any]:
    """(type, option) for typer. Values are read by the option itself, wherever they come from."""
    start = STARTS[name]
    text = option.help if start in (None, "") else f"{option.help} [default: {option.kind.show(start)}]"
    if option.kind is YES:
        return bool | None, typer.Option(option.flag, help=text, show_default=False)
    text += " NAME=VALUE for one model; repeatable." if option.per_model else ""
    return (
        list[str] | None if option.per_model else str | None,
        typer.Option(option.flag, help=text, metavar=option.kind.metavar, show_default=False),
    )


def serve(**flags: Any) -> None:
    """Serve recurrent models over gRPC and keep their state between calls.

    Example: statecell-server --models models --host 127.0.0.1 --port 50051

    Each option may also be said by the environment (STATECELL_MAX_BATCH) or in the TOML file that --config names.

    Prints "listening on HOST:PORT" when it is ready, and with --http-port "HTTP on HOST:PORT".

    Ctrl-C, SIGTERM or SIGHUP finish what is in flight and stop.
    """
    _hold_descriptors()
    try:
        settings = read(flags, os.environ)
        config = settings.config()
    except ConfigError as error:
        _fail(error)
    if flags["print_config"]:
        print(settings.shown())
        return
    logs.begin(config.log_level, config.log_format)
    for note in settings.notes:
        log.warning("%s", note)
    _run(config, settings.summary())


serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
app.command()(serve)


def _run(config: Config, said: str) -> None:
    from statecell_server.app import App
    from statecell_server.engine.attempt import unfinished
    from statecell_server.runtimes.runtime import DeviceLost, LoadError
    from statecell_server.transport.address import AddressError

    async def serve() -> None:
        made = App(config)
        log.info("statecell-server %s: %s", version_of("statecell-server"), said)
        await made.run()

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
