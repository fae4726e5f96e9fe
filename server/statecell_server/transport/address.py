"""The address to listen on: whether it can be had, and why not, in words for whoever chose it."""

import errno
import socket


class AddressError(OSError):
    """The operator's fault: the message names --host or --port, what is wrong with it, and what to choose."""


def check(host: str, port: int, option: str = "--port") -> None:
    """Raises AddressError where nobody could listen there now. Nothing is kept: another program may still come first.

    `option`: the one that the port was given by.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise explained(error, host, port, option) from error
    for family, kind, protocol, _, address in found:
        try:
            listener = socket.socket(family, kind, protocol)
        except OSError:  # a family of addresses that this machine does not have
            continue
        with listener:
            # As a server does: a port whose last connections are still closing can be had.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                raise explained(error, host, port, option) from error


def explained(error: OSError | UnicodeError, host: str, port: int, option: str = "--port") -> AddressError:
    """What went wrong with this host and port."""
    if isinstance(error, AddressError):
        return error
    if isinstance(error, socket.gaierror | UnicodeError):
        return AddressError(f"--host is {host!r}, which is no address and no known name; expected one such as 127.0.0.1")
    match error.errno:
        case errno.EADDRINUSE:
            return AddressError(
                f"{option} {port} is taken: another program listens at {host}:{port}; stop it, or choose another, or 0"
            )
        case errno.EADDRNOTAVAIL:
            return AddressError(f"--host {host} is not an address of this machine; expected one of its own, or 0.0.0.0 for all")
        case errno.EACCES:
            return AddressError(f"{option} {port} may be opened by the administrator alone; choose one of 1024 or more")
    return AddressError(f"cannot listen on {host}:{port}: {error.strerror or error}")
