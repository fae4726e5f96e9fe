"""StateKey: the deployment's secret, by which it knows the states that it has given out or put away as its own."""

import hmac
from pathlib import Path

from statecell_server.config import ConfigError

SEAL_BYTES = 32
"""Of HMAC-SHA256 (RFC 2104)."""
LEAST = 32
"""Characters of a key: 128 bits and more, however they are written."""
MOST = 16
"""Keys of a file: each is tried on what fits none."""


class StateKeyError(ConfigError):
    """The operator's fault: the message names the option and the file."""


class StateKey:
    """`key.fits(key.seal(content), content)`. Without a file nothing is sealed, and `sealing` is False."""

    def __init__(self, path: Path | None) -> None:
        """A key a line: the first seals, all of them open, so that keys can be changed. Raises StateKeyError."""
        self._keys: list[bytes] = []
        if path is None:
            return
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise StateKeyError(f"--state-key {path} cannot be read: {error.strerror}") from error
        self._keys = [line.strip() for line in lines if line.strip()]
        short = next((number for number, key in enumerate(self._keys, 1) if len(key) < LEAST), None)
        if not 1 <= len(self._keys) <= MOST or short is not None:
            what = f"key {short} is shorter than {LEAST} characters" if short else f"{len(self._keys)} keys"
            raise StateKeyError(
                f"--state-key {path} has {what}, expected 1 to {MOST}, one a line; make one with: openssl rand -hex 32"
            )

    @property
    def sealing(self) -> bool:
        return bool(self._keys)

    def seal(self, content: bytes) -> bytes:
        """SEAL_BYTES that nobody without the key can make."""
        return hmac.digest(self._keys[0], content, "sha256")

    def fits(self, seal: bytes, content: bytes) -> bool:
        """Whether one of the keys has made this seal of this content."""
        return any(hmac.compare_digest(hmac.digest(key, content, "sha256"), seal) for key in self._keys)


NO_KEY = StateKey(None)
