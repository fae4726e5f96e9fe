"""The client under asyncio. The blocking Client runs this very code."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from statecell.spec import ModelSpec
from statecell.tensor import pack, unpack
from statecell.v1 import inference_pb2 as wire

from statecell_client import modules
from statecell_client.arrays import Array, ArrayLike, Kind
from statecell_client.async_session import AsyncSession
from statecell_client.asyncio_transport import AsyncioTransport
from statecell_client.connection import Connection, Transport
from statecell_client.errors import InvalidRequest, ModelNotFound, SessionGone, StatecellError
from statecell_client.layout import check_count, check_names, conform
from statecell_client.model import Model, SessionInfo
from statecell_client.retry import Retry, Route, checked
from statecell_client.snapshot import Snapshot
from statecell_client.tls import Tls

StateLike = Mapping[str, ArrayLike] | Sequence[ArrayLike]
AsyncModule = Callable[..., Awaitable[Any]]


class AsyncClient:
    """As Client, with await.

        async with AsyncClient("localhost:50051") as client, client.session("charlm") as session:
            y = await session.step(x)

    `transport` carries the calls; asyncio's does unless another is given.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        retry: Retry | None = None,
        tls: Tls | None = None,
        token: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        retry = checked(retry)
        self._connection = Connection(transport or AsyncioTransport(retry.silence, tls, token), addresses, retry)
        self._addresses = self._connection.route.addresses
        self._models: dict[tuple[str, str], Model] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self._addresses)}>"

    async def models(self) -> list[Model]:
        """As Client.models."""
        reply = await self._connection.call("ListModels", wire.ListModelsRequest())
        return [Model.from_wire(model) for model in reply.models]

    async def model(self, name: str, version: str = "") -> Model:
        """As Client.model."""
        reply = await self._connection.call("GetModel", wire.GetModelRequest(name=name, version=version))
        model = Model.from_wire(reply.model)
        self._models[name, version] = self._models[name, model.version] = model
        return model

    async def sessions(self, model: str = "") -> list[SessionInfo]:
        """As Client.sessions."""
        found: list[SessionInfo] = []
        request = wire.ListSessionsRequest(model=model)
        while True:
            reply = await self._connection.call("ListSessions", request)
            found += [SessionInfo.from_wire(session) for session in reply.sessions]
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def infer(self, name: str, /, *, version: str = "", **inputs: ArrayLike) -> dict[str, Any]:
        """As Client.infer."""
        kind = Kind.of(inputs.values())
        outputs = await self._infer(await self._known(name, version), inputs)
        return {name: kind.give(array) for name, array in outputs.items()}

    def session(
        self,
        model: str,
        *,
        batch: int = 1,
        state: StateLike | None = None,
        snapshot: Snapshot | None = None,
        durable: bool = False,
        version: str = "",
    ) -> "Opening":
        """As Client.session: `async with client.session(…) as session`, or `session = await client.session(…)`."""
        check_count("batch", batch)
        if snapshot is not None and not isinstance(snapshot, Snapshot):
            raise InvalidRequest(
                f"snapshot is {type(snapshot).__name__}, expected a Snapshot; Snapshot.from_bytes(…) reads one"
            )
        request = wire.CreateSessionRequest(model=model, version=version, batch=batch, durable=durable)
        if state is not None and snapshot is not None:
            raise InvalidRequest("a session starts from a state or from a snapshot, not from both")
        if snapshot is not None:
            request.snapshot.CopyFrom(snapshot.message)
            request.batch = snapshot.batch
        return Opening(self._open(request, state))

    def attach(self, session_id: str, *, durable: bool = False) -> "Opening":
        """As Client.attach; awaited or entered as `session` is."""
        return Opening(self._attach(session_id, durable))

    def lstm(self, name: str, version: str = "") -> AsyncModule:
        """As Client.lstm: `out, (h_n, c_n) = await lstm(x, (h_0, c_0))`. So are the five below."""
        return self._module(modules.LSTM, name, version)

    def lstm_cell(self, name: str, version: str = "") -> AsyncModule:
        return self._module(modules.LSTM_CELL, name, version)

    def gru(self, name: str, version: str = "") -> AsyncModule:
        return self._module(modules.GRU, name, version)

    def gru_cell(self, name: str, version: str = "") -> AsyncModule:
        return self._module(modules.GRU_CELL, name, version)

    def rnn(self, name: str, version: str = "") -> AsyncModule:
        return self._module(modules.RNN, name, version)

    def rnn_cell(self, name: str, version: str = "") -> AsyncModule:
        return self._module(modules.RNN_CELL, name, version)

    async def close(self) -> None:
        """As Client.close."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _module(self, convention: modules.Convention, name: str, version: str) -> AsyncModule:
        async def module(x: ArrayLike, state: Any = None) -> Any:
            return await modules.call(convention, await self._known(name, version), self._infer, x, state)

        return module

    async def _known(self, name: str, version: str) -> Model:
        """The model as it was last seen; its spec says how inputs are laid out."""
        return self._models.get((name, version)) or await self.model(name, version)

    async def _infer(self, model: Model, values: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Outputs and final states by name, read-only."""
        spec = model.spec
        tensors = list(spec.inputs)
        if any(s.input in values for s in spec.states):
            tensors += [s.tensor for s in spec.states]
        try:
            check_names(spec, values, [t.name for t in tensors])
            arrays = conform(tensors, values, {})
            request = wire.InferRequest(model=model.name, inputs=[pack(name, array) for name, array in arrays.items()])
            reply = await self._connection.call("Infer", request)
        except StatecellError:
            self._models.clear()  # the server may have another version by now
            raise
        return {tensor.name: unpack(tensor) for tensor in reply.outputs}

    async def _open(self, request: wire.CreateSessionRequest, state: StateLike | None) -> AsyncSession:
        if state is not None:
            model = await self._known(request.model, request.version)
            states = _states(model.spec, state, request.batch)
            request.initial_state.extend(pack(name, array) for name, array in states.items())
        route = self._connection.next_route()
        session = (await self._connection.call("CreateSession", request, route)).session
        model = await self._known(session.model, session.version)
        return AsyncSession(self._connection, route.of_session(durable=session.durable), model, session)

    async def _attach(self, session_id: str, durable: bool) -> AsyncSession:
        route, snapshot = await self._find(session_id)
        ours = [m for m in await self.models() if (m.name, m.digest) == (snapshot.model, snapshot.digest)]
        if not ours:
            raise ModelNotFound(f"session {session_id} is of a {snapshot.model!r} that the server does not list any more")
        session = wire.Session(session_id=session_id, batch=snapshot.batch, step_index=snapshot.step_index, durable=durable)
        return AsyncSession(self._connection, route.of_session(durable=durable), ours[-1], session)

    async def _find(self, session_id: str) -> tuple[Route, wire.Snapshot]:
        """Where a session is, and its state. Raises SessionGone where it is at none of the addresses."""
        gone: SessionGone | None = None
        for _ in self._connection.route.addresses:
            route = self._connection.next_route()
            try:
                reply = await self._connection.call("GetState", wire.GetStateRequest(session_id=session_id), route, session_id)
            except SessionGone as error:
                gone = error
            else:
                return route, reply.snapshot
        assert gone is not None, "there is an address"
        raise gone


class Opening:
    """A session that is being created: await it, or enter it."""

    def __init__(self, creation: Awaitable[AsyncSession]) -> None:
        self._creation = creation

    def __await__(self) -> Generator[Any, Any, AsyncSession]:
        return self._creation.__await__()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the session is not open yet, so it has no {name!r}: write session = await client.session(…), "
            "or async with client.session(…) as session"
        )

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._creation
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)


def _states(spec: ModelSpec, state: StateLike, batch: int) -> dict[str, Array]:
    """An initial state, by name or in the spec's order, as arrays. Raises InvalidRequest, ShapeMismatch, DtypeMismatch."""
    names = [s.input for s in spec.states]
    if not isinstance(state, Mapping):
        if len(state) != len(names):
            raise InvalidRequest(f"model {spec.name!r} has the states {', '.join(names)}; {len(state)} came")
        state = dict(zip(names, state, strict=True))
    check_names(spec, state, names)
    return conform([s.tensor for s in spec.states], state, {"batch": batch})
