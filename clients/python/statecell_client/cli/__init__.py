"""The statecell command."""

import sys


def main() -> None:
    """Runs the command; says what to install where the libraries that only it needs are missing."""
    try:
        from statecell_client.cli.app import app
    except KeyboardInterrupt:  # while it was being imported; typer knows what to do with those that come later
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "grpc_health"):
            raise
        sys.exit(f"the statecell command needs {error.name}: pip install 'statecell-client[cli]'")
    app(prog_name="statecell")
