"""statecell session: create, save, restore, delete."""

from pathlib import Path
from typing import Annotated

import typer

from statecell_client.cli import outputs
from statecell_client.cli.common import LOCAL, Servers, connected, console
from statecell_client.snapshot import Snapshot

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Create, save, restore and delete sessions.")

Id = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
Durable = Annotated[bool, typer.Option(help="Let it outlive its server, which needs a store.")]


@app.command()
def create(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    batch: Annotated[int, typer.Option(help="Rows that advance together.")] = 1,
    durable: Durable = False,
    server: Servers = LOCAL,
) -> None:
    """Create a session and print its id.

    Example: statecell session create charlm
    """
    with connected(server) as client:
        print(client.session(model, batch=batch, durable=durable).id)


@app.command()
def save(
    session_id: Id, file: Annotated[Path, typer.Argument(help="Where the snapshot goes.")], server: Servers = LOCAL
) -> None:
    """Write a session's whole state into a file.

    Example: statecell session save 31918786-Y6ZSH9 evening.snapshot
    """
    with connected(server) as client:
        outputs.check_place(file)
        snapshot = client.attach(session_id).snapshot()
        file.write_bytes(snapshot.to_bytes())
        console.print(f"{snapshot.model} at step_index {snapshot.step_index} saved as {file}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `statecell session save` wrote.")],
    durable: Durable = False,
    server: Servers = LOCAL,
) -> None:
    """Create a session from a file, on this server or another, and print its id.

    Example: statecell session restore evening.snapshot
    """
    with connected(server) as client:
        snapshot = Snapshot.from_bytes(file.read_bytes())
        print(client.session(snapshot.model, snapshot=snapshot, durable=durable).id)


@app.command()
def delete(session_id: Id, server: Servers = LOCAL) -> None:
    """Delete a session.

    Example: statecell session delete 31918786-Y6ZSH9
    """
    with connected(server) as client:
        client.attach(session_id).close()
