"""The asyncio transport: grpc.aio channels."""

import asyncio
from typing import Any

import grpc
from google.protobuf.message import Message
from statecell.v1 import inference_pb2 as wire
from statecell.v1.inference_pb2_grpc import InferenceServiceStub

from statecell_client.connection import Headers, channel_options
from statecell_client.errors import ServerUnreachable, from_rpc_error
from statecell_client.retry import Retry
from statecell_client.tls import Tls
from statecell_client.token import metadata


class AsyncioDuplex:
    """An open StreamSteps call."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def write(self, request: wire.StreamStepsRequest) -> None:
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            # Whatever ended the stream, grpc.aio calls a failed write INTERNAL and forgets the true status.
            raise ServerUnreachable(f"the server at {self._address} has ended the stream", settled=False) from error

    async def read(self) -> wire.StreamStepsResponse:
        try:
            response: wire.StreamStepsResponse = await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._address) from error
        if response is grpc.aio.EOF:  # type: ignore[comparison-overlap]
            raise ServerUnreachable(f"the server at {self._address} has ended the stream", settled=False)
        return response

    def cancel(self) -> None:
        self._call.cancel()


class AsyncioTransport:
    """A channel an address, opened when it is first needed."""

    def __init__(self, silence: float = Retry.silence, tls: Tls | None = None, token: str | None = None) -> None:
        """Raises as Tls.credentials and token.metadata."""
        self._token = metadata(token)
        self._options = channel_options(silence)
        self._credentials = tls.credentials() if tls is not None else None
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[str, Any] = {}

    def _stub(self, address: str) -> Any:
        if address not in self._stubs:
            self._channels[address] = (
                grpc.aio.insecure_channel(address, options=self._options)
                if self._credentials is None
                else grpc.aio.secure_channel(address, self._credentials, options=self._options)
            )
            self._stubs[address] = InferenceServiceStub(self._channels[address])
        return self._stubs[address]

    async def call(self, address: str, rpc: str, request: Message, timeout: float, headers: Headers) -> Any:
        try:
            return await getattr(self._stub(address), rpc)(request, timeout=timeout, metadata=headers + self._token)
        except grpc.RpcError as error:
            raise from_rpc_error(error, address) from error

    async def open(self, address: str, headers: Headers) -> AsyncioDuplex:
        return AsyncioDuplex(self._stub(address).StreamSteps(metadata=headers + self._token), address)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
