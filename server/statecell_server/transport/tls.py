"""TLS: the server's certificate, who its clients must be, and both anew when their files have changed."""

import contextlib
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from statecell_server.config import ConfigError

log = logging.getLogger(__name__)

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2, what HTTP/2 does not forbid (RFC 9113, appendix A); TLS 1.3 has its own, all of which may be used."""


class TlsError(ConfigError):
    """The operator's fault: the message names the option and the file."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM. `client_ca`: clients must show a certificate that one of these has signed."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Raises TlsError."""
        found = []
        for option, path in (("--tls-cert", self.cert), ("--tls-key", self.key), ("--tls-client-ca", self.client_ca)):
            try:
                found.append(path.read_bytes() if path is not None else b"")
            except OSError as error:
                raise TlsError(f"{option} {path} cannot be read: {error.strerror}") from error
        return found[0], found[1], found[2]


class Certificates:
    """`context` is to listen with; a connection that begins after `look` has found other files has what is in those."""

    def __init__(self, files: TlsFiles, protocol: str = "h2") -> None:
        """`protocol`: what is spoken, as ALPN has it: h2, or http/1.1. Raises TlsError."""
        self._files = files
        self._protocol = protocol
        self._contents = files.read()
        self._current = self._made(self._contents)
        self.context = self._made(self._contents)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def look(self) -> None:
        """Now and then. Files that are not whole, or do not fit each other, change nothing."""
        try:
            contents = self._files.read()
            if contents == self._contents:
                return
            self._current = self._made(contents)
        except TlsError as error:
            log.warning("the certificate stays as it was: %s", error)
            return
        self._contents = contents
        log.info("%s has a new certificate, which new connections get", self._files.cert)

    def _made(self, contents: tuple[bytes, bytes, bytes]) -> ssl.SSLContext:
        """Raises TlsError."""
        cert, key, client_ca = contents
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.set_alpn_protocols([self._protocol])
        # From copies of what was read: the files may be others by now.
        with _named(cert) as cert_path, _named(key) as key_path:
            try:
                context.load_cert_chain(cert_path, key_path, password="")
            except (ssl.SSLError, ValueError) as error:
                raise TlsError(
                    f"--tls-cert {self._files.cert} and --tls-key {self._files.key} are no certificate and its key: "
                    f"{_reason(error)}; expected PEM, the certificate in front of its signers', the key without a password"
                ) from error
        if self._files.client_ca is not None:
            try:
                context.load_verify_locations(cadata=client_ca.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                reason = _reason(error)
                raise TlsError(f"--tls-client-ca {self._files.client_ca} has no certificates in PEM: {reason}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """For grpcio's server, which asks for each connection."""
        told = self._contents

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal told
            if self._contents is told:
                return None
            told = self._contents
            return _configuration(told)

        required = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(_configuration(told), changed, required)  # type: ignore[arg-type]


@contextlib.contextmanager
def _named(content: bytes) -> Iterator[str]:
    """The path of a file that holds this, for OpenSSL, which reads certificates from nothing else.

    In memory where the system has that: a read-only container has no place for temporary files, and no key comes to a disk.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pem")
            path.touch(mode=0o600)
            path.write_bytes(content)
            yield str(path)


def _configuration(contents: tuple[bytes, bytes, bytes]) -> grpc.ServerCertificateConfiguration:
    cert, key, client_ca = contents
    return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca or None)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error) or type(error).__name__
