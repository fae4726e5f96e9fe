"""Listening: whether a server may be reached from elsewhere as it was told to start."""

import ipaddress

from statecell_server.config import Config, ConfigError


def is_loopback(host: str) -> bool:
    """Whether nobody reaches it but this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check(config: Config) -> None:
    """Raises ConfigError for a server that strangers could use, or listen to."""
    if config.insecure or is_loopback(config.host) or config.tls_client_ca is not None:
        return
    missing = [
        what
        for what, there in (
            ("--tls-cert and --tls-key", config.tls_cert is not None),
            ("--tokens, or --tls-client-ca", config.tokens is not None),
        )
        if not there
    ]
    if missing:
        raise ConfigError(
            f"--host {config.host or repr('')} is reached from other machines, which needs {' and '.join(missing)}; "
            "or say --insecure where only friends reach it"
        )
