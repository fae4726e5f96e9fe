"""The blocking transport: grpcio's synchronous channels."""

import queue
import threading
import time
from collections.abc import Callable
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


class BlockingDuplex:
    """An open StreamSteps call. gRPC takes the requests from a queue in a thread of its own."""

    def __init__(self, method: Callable[..., Any], address: str, headers: Headers) -> None:
        self._address = address
        self._requests: queue.SimpleQueue[wire.StreamStepsRequest | None] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=headers)

    async def write(self, request: wire.StreamStepsRequest) -> None:
        self._requests.put(request)

    async def read(self) -> wire.StreamStepsResponse:
        try:
            response: wire.StreamStepsResponse = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self._address) from error
        except StopIteration:
            raise ServerUnreachable(f"the server at {self._address} has ended the stream", settled=False) from None
        return response

    def cancel(self) -> None:
        self._requests.put(None)
        self._call.cancel()


class BlockingTransport:
    """A channel an address, opened when it is first needed."""

    def __init__(self, silence: float = Retry.silence, tls: Tls | None = None, token: str | None = None) -> None:
        """Raises as Tls.credentials and token.metadata."""
        self._token = metadata(token)
        self._options = channel_options(silence)
        self._credentials = tls.credentials() if tls is not None else None
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[str, InferenceServiceStub] = {}
        self._lock = threading.Lock()

    def _stub(self, address: str) -> InferenceServiceStub:
        with self._lock:
            if address not in self._stubs:
                self._channels[address] = (
                    grpc.insecure_channel(address, options=self._options)
                    if self._credentials is None
                    else grpc.secure_channel(address, self._credentials, options=self._options)
                )
                self._stubs[address] = InferenceServiceStub(self._channels[address])
            return self._stubs[address]

    async def call(self, address: str, rpc: str, request: Message, timeout: float, headers: Headers) -> Any:
        try:
            return getattr(self._stub(address), rpc)(request, timeout=timeout, metadata=headers + self._token)
        except grpc.RpcError as error:
            raise from_rpc_error(error, address) from error

    async def open(self, address: str, headers: Headers) -> BlockingDuplex:
        return BlockingDuplex(self._stub(address).StreamSteps, address, headers + self._token)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
