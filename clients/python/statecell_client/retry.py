"""When a call is sent again, where to, and after how long."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from statecell_client.errors import ServerUnreachable, StatecellError


@dataclass(frozen=True)
class Retry:
    """Calls that may pass when repeated are, until `timeout` seconds after they were first sent.

    Every step carries its step_index, so a repeated one is applied once. The pause before a repetition doubles from
    `first_pause` to `longest_pause` seconds, or is what the server asks for; a random part keeps many clients from coming back
    at once. A connection that gives no sign of life for `silence` seconds while a call waits for it counts as broken.
    """

    timeout: float = 60.0
    first_pause: float = 0.02
    longest_pause: float = 1.0
    silence: float = 15.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int | float):
                raise ValueError(f"Retry's {name} is {value!r}, expected seconds")
        if not 0 < self.first_pause <= self.longest_pause or self.timeout <= 0 or self.silence <= 0:
            raise ValueError(f"{self}: expected timeout > 0, silence > 0 and 0 < first_pause <= longest_pause")

    def pause(self, failures: int, error: StatecellError) -> float:
        """Seconds to wait after the given number of failures."""
        pause = min(self.first_pause * 2.0 ** min(failures - 1, 30), self.longest_pause)
        return max(pause * random.uniform(0.5, 1.0), error.retry_seconds or 0.0)


def checked(retry: Retry | None) -> Retry:
    """The given one, or the usual. Raises ValueError for what is none."""
    if retry is not None and not isinstance(retry, Retry):
        raise ValueError(f"retry is {retry!r}, expected a Retry, such as Retry(timeout=30)")
    return retry or Retry()


@dataclass
class Route:
    """Which of the addresses serves a call."""

    addresses: Sequence[str]
    index: int = 0
    session: bool = False
    durable: bool = False

    @property
    def address(self) -> str:
        return self.addresses[self.index]

    def move_on(self, error: StatecellError) -> None:
        """To the next address, where one may help: a session in one server's memory is only there."""
        if not self.session or (self.durable and error.code is grpc.StatusCode.UNAVAILABLE):
            self.index = (self.index + 1) % len(self.addresses)

    def of_session(self, *, durable: bool) -> "Route":
        """The route of a session that was created here."""
        return Route(self.addresses, self.index, True, durable)


@dataclass
class Attempts:
    """One call's attempts: `failed` decides what comes after each."""

    route: Route
    retry: Retry
    reached: bool
    """Whether any of the addresses ever answered: what never did is a wrong address, and is not waited for."""
    started: float = field(default_factory=time.monotonic)
    failures: int = 0
    settled: bool = True
    """Whether every attempt so far surely changed nothing."""

    @property
    def left(self) -> float:
        """Seconds until the attempts are over."""
        return self.started + self.retry.timeout - time.monotonic()

    def failed(self, error: StatecellError) -> float:
        """Seconds to wait before the next attempt, at `route.address`; raises the error where there is to be none."""
        self.settled = error.settled = self.settled and error.settled
        if not error.may_pass:
            raise error
        self.failures += 1
        everywhere = self.failures >= len(self.route.addresses)
        if not self.reached and isinstance(error, ServerUnreachable) and everywhere:
            raise error
        before = self.route.address
        self.route.move_on(error)
        moved = self.route.address != before
        pause = 0.0 if moved and not everywhere else self.retry.pause(self.failures, error)
        if pause >= self.left:
            raise error
        return pause
