"""Tokens: by what a server knows its callers."""

from pathlib import Path


def read_token(path: str | Path) -> str:
    """What is in the file, without the end of its line. Raises OSError, ValueError."""
    return checked(Path(path).read_text(encoding="ascii", errors="replace").strip(), f"the file {path}")


def checked(token: str, what: str = "token") -> str:
    """`token`, where it can be one. Raises ValueError, which does not have it in its words."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{what} has no token in it; expected one line of printable ASCII, as statecell-token prints it")
    return token


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What is sent with every call. Raises ValueError."""
    return () if token is None else (("authorization", f"Bearer {checked(token)}"),)
