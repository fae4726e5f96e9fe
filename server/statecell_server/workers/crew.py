"""Crew: what makes a process one of several workers: it passes calls on, and answers those that are passed on to it."""

import asyncio
import json
import time

import grpc
from statecell.oip import inference_pb2_grpc as oip_pb2_grpc
from statecell.v1 import inference_pb2_grpc

from statecell_server.engine.engine import Engine
from statecell_server.protocols.oip.service import GRPCInferenceService
from statecell_server.transport.http2.server import Server
from statecell_server.transport.limits import Limits
from statecell_server.workers.oip_service import RelayedOip
from statecell_server.workers.peers import SESSIONS, Peers
from statecell_server.workers.place import Place
from statecell_server.workers.sessions import Sessions
from statecell_server.workers.v1_service import PassedV1, RelayedV1

LOOK_SECONDS = 0.02


class Crew:
    """`service` and `oip_service` are for clients. Belongs to the event loop."""

    def __init__(self, place: Place, engine: Engine, oip_service: GRPCInferenceService, limits: Limits) -> None:
        self._place = place
        self._peers = Peers(place)
        self._sessions = Sessions(engine, self._peers)
        self.service = RelayedV1(engine, self._sessions)
        self.oip_service = RelayedOip(engine, oip_service, self._peers)
        passed = PassedV1(engine)
        self._server = Server(limits)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(passed, self._server)
        self._server.add_direct_handlers("statecell.v1.InferenceService", passed.direct)
        oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(oip_service, self._server)
        self._server.add_direct_handlers("inference.GRPCInferenceService", oip_service.direct)
        service, _, method = SESSIONS.removeprefix("/").partition("/")
        self._server.add_registered_method_handlers(
            service, {method: grpc.unary_unary_rpc_method_handler(self._found, bytes, bytes)}
        )

    async def _found(self, message: bytes, _: object) -> bytes:
        return json.dumps(await self._sessions.describe(json.loads(message))).encode()

    async def listen(self) -> None:
        """Others may pass calls on from now on. Raises OSError."""
        self._place.serving(self._place.index).touch()
        # Under another name until it is listened on: where the socket is, calls are taken.
        new = self._place.folder / f"{self._place.index}.new"
        new.unlink(missing_ok=True)
        await self._server.listen_unix(str(new))
        new.rename(self._place.socket(self._place.index))

    async def leave(self, end: float) -> None:
        """Clients are served no more; waits until those of all other workers are, until `end`, of time.monotonic()."""
        self._place.serving(self._place.index).unlink(missing_ok=True)
        while time.monotonic() < end and any(self._place.serving(index).exists() for index in self._place.others):
            await asyncio.sleep(LOOK_SECONDS)
        await self._peers.close()
        await self._server.stop(max(end - time.monotonic(), 0))
        self._place.clear(self._place.index)
