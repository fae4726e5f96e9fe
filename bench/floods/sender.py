"""One flood: `python -m bench.floods.sender KIND HOST:PORT CONNECTIONS SECONDS` prints its connections and bytes.

At the lowest priority: what a client beside it waits is then the server's doing, and not for a core that the flood has.
"""

import contextlib
import os
import select
import socket
import sys
import threading
import time

from bench.floods.kinds import GREETING, KINDS, NOWHERE, STRANGERS, UNREAD

PIECE = 1 << 18


class Sender(threading.Thread):
    """Connects again as soon as it is cut off."""

    def __init__(self, kind: str, address: tuple[str, int], until: float) -> None:
        super().__init__(daemon=True)
        self.connections = self.sent = 0
        self._kind, self._address, self._until = kind, address, until
        self._flood = KINDS.get(NOWHERE if kind == UNREAD else kind)

    def run(self) -> None:
        while time.monotonic() < self._until:
            try:
                with socket.create_connection(self._address, timeout=10) as connection:
                    self.connections += 1
                    self._send(connection)
            except OSError:  # cut off, which is what is expected
                time.sleep(0.001)

    def _send(self, connection: socket.socket) -> None:
        if self._flood is None:
            self.sent += connection.send(b"GET / HTTP/1.1\r\n\r\n")
            return
        connection.sendall(GREETING)
        connection.setblocking(False)
        pieces, rest = self._flood(), b""
        while time.monotonic() < self._until:
            rest = rest or next(pieces)
            wanted = [] if self._kind == UNREAD else [connection]
            readable, writable, _ = select.select(wanted, [connection] if rest else [], [], 0.2)
            if readable and not connection.recv(1 << 20):
                return
            if writable:
                sent = connection.send(rest[:PIECE])
                self.sent, rest = self.sent + sent, rest[sent:]


def main() -> None:
    kind, address, connections, seconds = sys.argv[1:]
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        os.nice(19)
    until = time.monotonic() + float(seconds)
    senders = [Sender(kind, (host, int(port)), until) for _ in range(int(connections))]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(float(seconds) + 20)
    print(sum(sender.connections for sender in senders), sum(sender.sent for sender in senders))


if __name__ == "__main__":
    assert STRANGERS not in KINDS
    main()
