"""The client of a statecell server."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from statecell_client.arrays import ArrayLike
from statecell_client.async_client import AsyncClient, AsyncModule, StateLike
from statecell_client.blocking_transport import BlockingTransport
from statecell_client.connection import run
from statecell_client.model import Model, SessionInfo
from statecell_client.retry import Retry, checked
from statecell_client.session import Session
from statecell_client.snapshot import Snapshot
from statecell_client.tls import Tls

Module = Callable[..., Any]


class Client:
    """Calls a statecell server, or several replicas that share a store.

        with Client("localhost:50051") as client, client.session("charlm") as session:
            logits = session.step(65)

    `addresses`: "host:port", or several of them. Threads may share a client, not a session. Nothing is connected before the
    first call. A call that meets a server which is down or busy is repeated as `retry` says, a step with the same step_index,
    so that it is applied once; where no address ever answered, ServerUnreachable comes at once. `tls`: None: in clear text.
    `token`: where the server asks for one; in clear text, whoever is on the way can read it.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        retry: Retry | None = None,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        retry = checked(retry)
        self._core = AsyncClient(addresses, retry=retry, transport=BlockingTransport(retry.silence, tls, token))

    def __repr__(self) -> str:
        return repr(self._core).replace("AsyncClient", "Client")

    def models(self) -> list[Model]:
        """What the server has, every version."""
        return run(self._core.models())

    def model(self, name: str, version: str = "") -> Model:
        """One model, its newest version unless another is named. Raises ModelNotFound."""
        return run(self._core.model(name, version))

    def sessions(self, model: str = "") -> list[SessionInfo]:
        """The server's sessions, all or those of one model."""
        return run(self._core.sessions(model))

    def infer(self, name: str, /, *, version: str = "", **inputs: ArrayLike) -> dict[str, Any]:
        """One stateless call: `client.infer("lstm", x=x, h_0=h_0, c_0=c_0)["y"]`.

        Takes the model's inputs by name, in its own layout, of any seq_len and batch, and all of its initial states or none.
        Gives outputs and final states by name. Raises as Session.step does, and ModelNotFound.
        """
        return run(self._core.infer(name, version=version, **inputs))

    def session(
        self,
        model: str,
        *,
        batch: int = 1,
        state: StateLike | None = None,
        snapshot: Snapshot | None = None,
        durable: bool = False,
        version: str = "",
    ) -> Session:
        """A new session of `batch` rows.

        It starts from the model's initial state, from `state` (by name, or in the spec's order: `(h_0, c_0)`), or from a
        `snapshot`, which also says how many rows. A `durable` one outlives its server, where the server has a store.
        Raises ModelNotFound, NotStreamable, SnapshotMismatch, StateBudgetExceeded, ShapeMismatch, DtypeMismatch.
        """
        opening = self._core.session(model, batch=batch, state=state, snapshot=snapshot, durable=durable, version=version)
        return Session(run(opening))

    def attach(self, session_id: str, *, durable: bool = False) -> Session:
        """A session that is there already, of this client or of another: `client.attach(session_id).step(x)`.

        With several addresses, a `durable` one may be answered by any of them. Raises SessionGone, ModelNotFound.
        """
        return Session(run(self._core.attach(session_id, durable=durable)))

    def lstm(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.LSTM is called: `out, (h_n, c_n) = client.lstm("lstm")(x, (h_0, c_0))`.

        x [seq_len, batch, input_size], or [batch, seq_len, input_size] where the model is batch_first, or unbatched
        [seq_len, input_size]; h_0 and c_0 [num_layers * directions, batch, size], without batch where x has none; zeros where
        they are left out. Stateless: each call brings its state along. torch in, torch out, without gradients.
        """
        return _blocking(self._core.lstm(name, version))

    def lstm_cell(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.LSTMCell is called: `h_1, c_1 = client.lstm_cell("lstm_cell")(x, (h_0, c_0))`.

        x [batch, input_size] or [input_size], h_0 and c_0 [batch, hidden_size] or [hidden_size].
        """
        return _blocking(self._core.lstm_cell(name, version))

    def gru(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.GRU is called: `out, h_n = client.gru("gru")(x, h_0)`. Shapes as for lstm."""
        return _blocking(self._core.gru(name, version))

    def gru_cell(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.GRUCell is called: `h_1 = client.gru_cell("gru_cell")(x, h_0)`. Shapes as for lstm_cell."""
        return _blocking(self._core.gru_cell(name, version))

    def rnn(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.RNN is called: `out, h_n = client.rnn("rnn")(x, h_0)`. Shapes as for lstm."""
        return _blocking(self._core.rnn(name, version))

    def rnn_cell(self, name: str, version: str = "") -> Module:
        """The model as torch.nn.RNNCell is called: `h_1 = client.rnn_cell("rnn_cell")(x, h_0)`. Shapes as for lstm_cell."""
        return _blocking(self._core.rnn_cell(name, version))

    def close(self) -> None:
        """Closes the connections. Sessions that were not closed stay with the server until they expire."""
        run(self._core.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _blocking(module: AsyncModule) -> Module:
    def blocking(x: ArrayLike, state: Any = None) -> Any:
        return run(module(x, state))

    return blocking
