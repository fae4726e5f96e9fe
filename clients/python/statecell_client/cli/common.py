"""What all commands share: where the server is, and errors as messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from statecell_client.client import Client
from statecell_client.errors import ServerUnreachable, StatecellError
from statecell_client.tls import Tls

console = Console()
complaints = Console(stderr=True)

Servers = Annotated[
    list[str],
    typer.Option("--server", "-s", envvar="STATECELL_SERVER", metavar="HOST:PORT", help="The server; again for each replica."),
]
LOCAL = ["localhost:50051"]
HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
ColumnNames = Annotated[
    str, typer.Option(metavar="A,B,…", help="The table's columns that the model takes, by title or number from 1; else all.")
]
Delimiter = Annotated[
    str, typer.Option(help="What stands between the columns: one character, or tab; else a comma, and a tab in a .tsv.")
]
Decimal = Annotated[str, typer.Option(help="What stands before the fractions of its numbers: a point or a comma.")]


def whole(title: str) -> Column:
    """A table's column whose cells are never cut short: a name or an id is of use only whole."""
    return Column(title, no_wrap=True)


class Given:
    """What was said in front of the command's own name."""

    tls: Tls | None = None
    token: str | None = None


given = Given()


@contextmanager
def connected(servers: list[str]) -> Iterator[Client]:
    """A client; an error ends the command with its message and exit code 1, without a traceback."""
    try:
        with Client(servers, tls=given.tls, token=given.token) as client:
            yield client
    except BrokenPipeError:  # whoever read the output has had enough, as head has; typer ends the command without a word
        raise
    except (StatecellError, OSError, ValueError) as error:
        complaints.print(f"[bold red]{type(error).__name__}[/]: {escape(_told(error))}", soft_wrap=True)
        if isinstance(error, ServerUnreachable):
            complaints.print(
                "Start one with [bold]make serve[/], or name yours: --server HOST:PORT or STATECELL_SERVER=HOST:PORT"
            )
        raise typer.Exit(1) from None


def _told(error: Exception) -> str:
    """The error; of a file that cannot be had, which and why, without the system's number for it."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no file {error.filename}"
    if isinstance(error, IsADirectoryError):
        return f"{error.filename} is a folder, expected a file"
    return f"{error.filename} cannot be opened: {error.strerror}"
