"""A TCP proxy in front of a server, to lose what is on the way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes bytes on, until told otherwise."""

    def __init__(self, upstream: str) -> None:
        host, port = upstream.rsplit(":", 1)
        self._upstream = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: set[socket.socket] = set()
        self._refusing = False
        self.swallowing = threading.Event()
        """While set, what the server answers is lost."""
        self.swallowed = threading.Event()
        """Set when an answer was lost."""
        self.connections = 0
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Resets every connection."""
        for each in list(self._sockets):
            with suppress(OSError):  # it may be closing by itself
                each.shutdown(socket.SHUT_RDWR)

    def refuse(self, refusing: bool = True) -> None:
        """Cuts, and takes no new connections until told to."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def lose_the_reply(self) -> None:
        """What the server answers next is lost, and the connection with it."""
        self.swallowed.clear()
        self.swallowing.set()

        def cut_then() -> None:
            self.swallowed.wait(10)
            self.swallowing.clear()
            self.cut()

        threading.Thread(target=cut_then, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                self.connections += 1
                server = socket.create_connection(self._upstream)
                self._sockets |= {client, server}
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and self.swallowing.is_set():
                    if len(data) > 60:  # not a mere acknowledgement
                        self.swallowed.set()
                    continue
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            self._sockets.discard(each)
            each.close()


@contextmanager
def proxy_to(address: str) -> Iterator[Proxy]:
    proxy = Proxy(address)
    try:
        yield proxy
    finally:
        proxy.close()
