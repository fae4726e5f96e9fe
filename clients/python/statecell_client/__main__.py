"""python -m statecell_client: the statecell command."""

from statecell_client.cli import main

if __name__ == "__main__":
    main()
