"""Budget: the memory for what is kept of sessions and requests beside the states."""

from statecell_server.errors import StateBudgetExceeded

SESSION_BYTES = 1024
"""What a session takes beside its state, its id and its last reply: its entry in the table, and what a protocol knows of it."""


class Budget:
    """One for all models: sessions, their ids and last replies, remembered request ids, what waiting requests bring and give.

    Whoever adds to it looks for room first; what goes gives its part back. Belongs to the event loop.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        """`limit`: in bytes."""
        self.limit = limit
        self.used = 0

    def check(self, nbytes: int) -> None:
        """Whether so many bytes more can be kept. Raises StateBudgetExceeded."""
        if self.used + nbytes > self.limit:
            raise StateBudgetExceeded(
                f"sessions, their last replies and waiting requests take {self.used} bytes beside the states; "
                f"{nbytes} more would exceed --session-memory {self.limit}",
                ever=nbytes <= self.limit,
            )
