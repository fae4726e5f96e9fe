"""The command `statecell-token`: makes a caller's token and its entry in the file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from statecell_server.access.tokens import Tokens, TokensError, entry, issue

app = typer.Typer(
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="The caller's name: letters, digits, '.', '_', '-'.")],
    file: Annotated[Path, typer.Option(help="The file of --tokens: the caller is added, the file made where there is none.")],
    admin: Annotated[bool, typer.Option("--admin", help="The caller may load models, and list all sessions.")] = False,
) -> None:
    """Make a token for a caller. It is printed once and kept nowhere; the file has its hash.

    Example: statecell-token alice --file tokens.toml > alice.token
    """
    made = issue()
    try:
        lines = entry(name, made, admin=admin)
        if file.exists():
            Tokens(file)  # what is there must be whole
            before = file.read_text()
            if f'["{name}"]' in before:
                raise TokensError(f"{file} has a caller {name!r} already; take that entry out first")
            lines = before + ("" if not before or before.endswith("\n") else "\n") + lines
        new = file.with_name(file.name + ".new")
        with open(new, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            out.write(lines)
        try:
            Tokens(new)
            os.replace(new, file)
        finally:
            new.unlink(missing_ok=True)
    except (TokensError, OSError) as error:
        print(f"statecell-token: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    print(made)


if __name__ == "__main__":
    app()
