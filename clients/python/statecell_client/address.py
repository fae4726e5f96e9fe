"""What may stand where a server's address is expected, and what to write where something else does."""

import re
from collections.abc import Iterable

GRPC_SCHEMES = ("dns", "unix", "xds")
"""What gRPC's own names of servers may have in front of ://, as dns:///host:port."""
_GRPC_NAMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:")
_HOST_PORT = re.compile(r"(?:\[[^\[\]\s/]+\]|[^:\[\]\s/,;@]+):(\d+)")
_PORT = 50051
"""The server's own default."""


def several(addresses: object) -> list[str]:
    """One address, or those of a sequence, each checked. Raises ValueError."""
    given = [addresses] if isinstance(addresses, str) or not isinstance(addresses, Iterable) else list(addresses)
    found = [address for address in given if isinstance(address, str) and address]
    if not found or len(found) != len(given):
        raise ValueError(f"addresses are {addresses!r}, expected one or more such as 'localhost:{_PORT}'")
    for address in found:
        check(address)
    return found


def check(address: str) -> None:
    """Raises ValueError for what gRPC would look up as the name of a host, or connect to at a port that nobody named."""
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() not in GRPC_SCHEMES:
        raise ValueError(f"address {address!r} begins with {scheme}://, expected HOST:PORT; write {rest.split('/')[0]!r}")
    if separator or address.startswith(_GRPC_NAMES):
        return
    port = _HOST_PORT.fullmatch(address)
    if port is None or not 0 < int(port[1]) < 65536:
        raise ValueError(f"address {address!r} is not HOST:PORT; write {_meant(address)}")


def _meant(address: str) -> str:
    parts = [part for part in re.split(r"[\s,;]+", address) if part]
    if len(parts) > 1:
        return f"each server by itself: {' and '.join(map(repr, parts))}"
    plain = parts[0].split("/")[0] if parts else ""
    if _HOST_PORT.fullmatch(plain) and plain != address:
        return repr(plain)
    host = plain.rstrip(":") if plain.count(":") < 2 else ""
    if host and ":" not in host:
        return repr(f"{host}:{_PORT}")
    if host:  # with something that is no port behind the colon
        return repr(f"{host.partition(':')[0] or 'localhost'}:{_PORT}")
    return f"such as 'localhost:{_PORT}', and an IPv6 address in brackets: '[::1]:{_PORT}'"
