"""Attempt: a call that may never end, in a thread of its own that nobody has to wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_running: set[threading.Thread] = set()


def attempt(call: Callable[[], T], name: str) -> "Future[T]":
    """What `call` gives or raises, some day. Not of a pool: a pool's threads are waited for when the process ends."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # it cannot be cancelled: who gives it up lets it end by itself

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            _running.discard(thread)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _running.add(thread)
    thread.start()
    return future


def unfinished() -> int:
    """Attempts that still run: Python cannot end in good order beside a thread that is deep in a library."""
    return len(_running)
