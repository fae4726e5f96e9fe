"""The access log: a line for each call, when it is over."""

import logging
import time

from statecell_server.transport.watch import Begun, Over

log = logging.getLogger("statecell_server.access")


def access_log(begun: Begun) -> Over:
    """A Watch. The line has no more of a call than who called, what, how it ended and how long it took."""
    began = time.perf_counter()

    def over(code: str) -> None:
        seconds = round(time.perf_counter() - began, 6)
        extra = {"rpc": begun.rpc, "code": code, "seconds": seconds, "peer": begun.peer, "request_id": begun.request_id}
        known = f" request_id={begun.request_id}" if begun.request_id else ""
        log.info("%s %s %.6f s from %s%s", begun.rpc, code, seconds, begun.peer, known, extra=extra)

    return over
