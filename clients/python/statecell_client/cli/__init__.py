"""The statecell command."""

import sys


def main() -> None:
    """Runs the command; says what to install where the libraries that only it needs are missing."""
    try:
        from statecell_client.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f"the statecell command needs {error.name}: pip install 'statecell-client[cli]'")
    app(prog_name="statecell")
