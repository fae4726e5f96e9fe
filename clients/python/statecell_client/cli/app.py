"""The commands that look and step."""

import datetime
import json
from dataclasses import asdict
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table
from statecell.spec import StateSpec, TensorSpec

from statecell_client.cli import session
from statecell_client.cli.common import HELP, LOCAL, AsJson, Servers, connected, console, given, whole
from statecell_client.cli.health import health
from statecell_client.cli.infer import infer
from statecell_client.cli.run import run
from statecell_client.cli.top import top
from statecell_client.cli.watch import watch
from statecell_client.tls import Tls
from statecell_client.token import read_token

# Without rich's markup: what stands in brackets is meant as it is written.
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=HELP)
app.add_typer(session.app, name="session")
for command in (infer, run, watch, top, health):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"statecell {version_of('statecell-client')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    tls: Annotated[bool, typer.Option("--tls", envvar="STATECELL_TLS", help="The server speaks TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option("--tls-ca", envvar="STATECELL_TLS_CA", help="PEM: who may have signed its certificate.")
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--tls-cert", envvar="STATECELL_TLS_CERT", help="PEM: this client's own certificate.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", envvar="STATECELL_TLS_KEY", help="PEM: and its key.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar="STATECELL_TOKEN_FILE", help="File of the token by which the server knows you.")
    ] = None,
) -> None:
    """Look at a statecell server and step its models.

    The server is --server HOST:PORT, or the environment's STATECELL_SERVER, or localhost:50051.

    Example: statecell --tls-ca ca.pem models --server statecell.example.com:50051
    """
    try:
        given.token = read_token(token_file) if token_file else None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--token-file") from error
    given.tls = Tls(ca, cert, key) if tls or ca or cert or key else None


@app.command()
def models(as_json: AsJson = False, server: Servers = LOCAL) -> None:
    """The models that the server has.

    Example: statecell models --server localhost:50051
    """
    with connected(server) as client:
        found = client.models()
        if as_json:
            print(json.dumps([asdict(model) | {"spec": model.spec.to_dict()} for model in found], indent=2))
            return
        table = Table(whole("model"), "takes and gives", "device", "sessions")
        for model in found:
            spec = model.spec
            lines = [_signature(t) for t in spec.inputs]
            lines += [f"-> {_signature(t)}" for t in spec.outputs]
            lines += [_signature(s) for s in spec.states] if spec.streamable else [f"no sessions: {escape(spec.reason)}"]
            table.add_row(f"{model.name}/{model.version}", "\n".join(lines), model.device, str(model.session_count))
        console.print(table)


@app.command()
def sessions(
    model: Annotated[str, typer.Option(help="Only this model's.")] = "",
    as_json: AsJson = False,
    server: Servers = LOCAL,
) -> None:
    """The sessions that the server has open.

    Example: statecell sessions --model charlm
    """
    with connected(server) as client:
        found = client.sessions(model)
        if as_json:
            print(json.dumps([asdict(session) for session in found], indent=2, default=datetime.datetime.isoformat))
            return
        table = Table(whole("session"), "model", "batch", "step_index", "durable", "idle")
        now = datetime.datetime.now(datetime.UTC)
        for s in found:
            idle = f"{(now - s.last_used_time).total_seconds():.0f} s"
            table.add_row(s.id, f"{s.model}/{s.version}", str(s.batch), str(s.step_index), "yes" if s.durable else "no", idle)
        console.print(table)


@app.command()
def step(
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="The id, from `statecell session create`.")],
    values: Annotated[list[str], typer.Argument(help="The input's numbers, or NAME=NUMBER,NUMBER,… for each of several.")],
    server: Servers = LOCAL,
) -> None:
    """Advance a session by one time step and print what came out.

    Example: statecell step 31918786-Y6ZSH9 0.1 0.2 0.3

    Numbers below zero go behind two dashes: statecell step SESSION -- -0.1 0.2
    """
    with connected(server) as client:
        attached = client.attach(session_id)
        specs = {t.name: t for t in attached.model.spec.inputs}
        if any("=" in value for value in values):
            named = dict(value.split("=", 1) for value in values)
            given = {name: text.split(",") for name, text in named.items()}
        else:
            given = {next(iter(specs)): values}
        y = attached.step(**{name: _numbers(texts, specs[name]) if name in specs else texts for name, texts in given.items()})
        for name, array in y.items() if isinstance(y, dict) else [("", y)]:
            print(*([f"{name}:"] if name else []), *(str(number) for number in array.flat))


def _numbers(texts: list[str], spec: TensorSpec) -> Any:
    """The arguments as what one step takes. Raises ValueError."""
    number = int if np.dtype(spec.dtype).kind in "iu" else float
    values: list[float] = []
    for text in texts:
        try:
            values.append(number(text))
        except ValueError:
            raise ValueError(
                f"{spec.name!r} was given {text!r}, expected {'whole numbers' if number is int else 'numbers'}; write them "
                "with spaces between them and a point within, as in 0.5 1.25"
            ) from None
    return values if any(isinstance(size, int) for size in spec.shape) or len(values) > 1 else values[0]


def _signature(tensor: TensorSpec | StateSpec) -> str:
    """x float32 [seq_len, batch, 10]"""
    name = f"{tensor.input} -> {tensor.output}" if isinstance(tensor, StateSpec) else tensor.name
    return escape(f"{name} {tensor.dtype} [{', '.join(map(str, tensor.shape))}]")
