"""Tls: how a client makes sure of its server, and shows who it is."""

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class Tls:
    """PEM files. `Tls()` trusts whom gRPC trusts by itself; `Tls(ca="ca.pem")` those who are in that file and nobody else.

    `cert` and `key`: what the server is shown, where it asks who its clients are.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError, and ValueError where one of `cert` and `key` is missing."""
        if (self.cert is None) != (self.key is None):
            raise ValueError(f"tls: cert is {self.cert}, key is {self.key}; expected both or neither")
        ca, key, cert = (None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)
