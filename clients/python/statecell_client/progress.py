"""How far a session is, and whether that is known: what makes a repeated step count once."""

from collections.abc import Sequence

from statecell.v1 import tensor_pb2

from statecell_client.errors import StatecellError, StepInFlight, StepUnsettled


class Progress:
    """The step_index that the next step carries.

    While the outcome of a step is unknown, only the very same step may be sent: with that step_index the server would answer
    another input with the stored reply of the first.
    """

    def __init__(self, step_index: int) -> None:
        self.step_index = step_index
        self._in_flight = False
        self._unsettled: list[tensor_pb2.Tensor] | None = None
        self._overrun = 0

    def begin(self, inputs: Sequence[tensor_pb2.Tensor]) -> None:
        """Before a step is sent. Raises StepInFlight, StepUnsettled."""
        self._check_idle()
        if self._overrun:
            raise StepUnsettled(
                f"a stream was closed {self._overrun} steps after the last answer that was taken from it: read session.state "
                "and go on from there, or let the stream go step by step with ahead=1"
            )
        if self._unsettled is not None and self._unsettled != list(inputs):
            raise StepUnsettled(
                f"whether the step at step_index {self.step_index} was applied is not known: "
                "repeat it with the same input, or read session.state and go on from there"
            )
        self._in_flight, self._unsettled = True, list(inputs)

    def advanced(self, step_index: int) -> None:
        """The step's reply came."""
        self._in_flight, self._unsettled, self.step_index = False, None, step_index

    def failed(self, error: BaseException) -> None:
        """No reply came, or none that anybody waits for."""
        self._in_flight = False
        if isinstance(error, StatecellError) and error.settled:
            self._unsettled = None

    def overran(self, steps: int) -> None:
        """The session went `steps` further than its caller has seen."""
        self._overrun = steps

    def stands_at(self, step_index: int) -> None:
        """The server said where the session stands while no step was in flight."""
        self._check_idle()
        self._unsettled, self._overrun, self.step_index = None, 0, step_index

    def _check_idle(self) -> None:
        if self._in_flight:
            raise StepInFlight(f"the step at step_index {self.step_index} is still in flight; one at a time")
