"""Tokens: a file of callers and the hashes of what they are known by."""

import hashlib
import logging
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path

from statecell_server.access.caller import ANYBODY, Caller
from statecell_server.config import ConfigError
from statecell_server.errors import PermissionDenied, Unauthenticated

log = logging.getLogger(__name__)

ROLES = ("user", "admin")
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OPEN = ("/grpc.health.v1.Health/", "/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")
"""Paths that need no token: what an orchestrator asks."""
_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)
_HASH = re.compile("[0-9a-f]{64}")


class TokensError(ConfigError):
    """The operator's fault: the message names the option, the file and the entry."""


def issue() -> str:
    """A new token: 256 random bits. Nobody can guess through so many, so that a single SHA-256 is all the hash they need."""
    return f"sct_{secrets.token_urlsafe(32)}"


def hashed(token: str) -> str:
    """As the file has it."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def entry(name: str, token: str, *, admin: bool) -> str:
    """The lines of the file that let `token` in. Raises TokensError."""
    if NAME.fullmatch(name) is None:
        raise TokensError(f"{name[:80]!r} is no caller's name, expected up to 64 letters, digits, '.', '_' or '-'")
    return f'["{name}"]\nsha256 = "{hashed(token)}"\nrole = "{ROLES[admin]}"\n'


class Tokens:
    """`Tokens(path).admit("Bearer sct_...")` is the Caller. Without a path, everybody is let in as ANYBODY.

    A token is looked up by its hash: how long that takes tells of the hash at most, and nobody can choose a token by its
    hash. Nothing is remembered of earlier calls: a token that is taken out of the file is refused from the next look on.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises TokensError."""
        self.path = path
        self._content = b"" if path is None else self._read(path)
        self._callers = {} if path is None else self._parsed(path, self._content)

    def admit(self, authorization: str) -> Caller:
        """`authorization`: the header of that name, "" where there is none. Raises Unauthenticated."""
        if self.path is None:
            return ANYBODY
        if not authorization:
            raise Unauthenticated("the call has no token; send the metadata 'authorization: Bearer TOKEN'")
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise Unauthenticated("authorization is of another form than 'Bearer TOKEN'")
        caller = self._callers.get(hashed(match[1]))
        if caller is None:
            raise Unauthenticated("the token is not one of this server's (--tokens)")
        return caller

    def admit_to(self, path: str, authorization: str) -> Caller:
        """As admit; OPEN paths are open. Raises Unauthenticated."""
        return ANYBODY if path.startswith(OPEN) else self.admit(authorization)

    def look(self) -> None:
        """Now and then: the file anew, where it has changed. One that is damaged changes nothing."""
        if self.path is None:
            return
        try:
            content = self._read(self.path)
            if content != self._content:
                self._callers = self._parsed(self.path, content)
                self._content = content
                log.info("--tokens %s has changed: %d callers", self.path, len(self._callers))
        except TokensError as error:
            log.warning("the tokens stay as they were: %s", error)

    @staticmethod
    def _read(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise TokensError(f"--tokens {path} cannot be read: {error.strerror}") from error

    @staticmethod
    def _parsed(path: Path, content: bytes) -> Mapping[str, Caller]:
        try:
            table = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TokensError(f"--tokens {path} is not TOML: {error}") from error
        found: dict[str, Caller] = {}
        for name, said in table.items():
            if NAME.fullmatch(name) is None or not isinstance(said, dict):
                raise TokensError(f"--tokens {path}: {name[:80]!r} is no caller; make entries with: statecell-token NAME")
            digest, role = said.get("sha256"), said.get("role", ROLES[0])
            unknown = said.keys() - {"sha256", "role"}
            if not isinstance(digest, str) or _HASH.fullmatch(digest) is None:
                raise TokensError(f"--tokens {path}: sha256 of {name!r} is no SHA-256, expected 64 of 0-9 and a-f")
            if role not in ROLES or unknown:
                what = f"unknown {min(unknown)[:40]!r}" if unknown else f"the role {str(role)[:40]!r}"
                raise TokensError(f"--tokens {path}: {name!r} has {what}, expected sha256, and role = user or admin")
            if digest in found:
                raise TokensError(f"--tokens {path}: {name!r} and {found[digest].name!r} have the same token")
            found[digest] = Caller(name, admin=role == "admin")
        return found


def check_admin(caller: Caller, what: str) -> None:
    """Raises PermissionDenied."""
    if not caller.admin:
        raise PermissionDenied(f"{what} needs the role admin, {caller.name!r} has the role user")
