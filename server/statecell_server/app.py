"""App: the gRPC server around the engine, from start to a clean stop."""

import asyncio
import gc
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from statecell.oip import inference_pb2_grpc as oip_pb2_grpc
from statecell.v1 import inference_pb2_grpc

from statecell_server import __version__
from statecell_server.access.listening import check as check_listening
from statecell_server.access.listening import is_loopback
from statecell_server.access.state_key import StateKey
from statecell_server.access.tokens import Tokens
from statecell_server.config import Config, ConfigError, without_secrets
from statecell_server.durability.circuit_breaker import CircuitBreaker
from statecell_server.durability.sealed_store import SealedStore
from statecell_server.durability.store import MemoryStore, StateStore
from statecell_server.engine.engine import Engine
from statecell_server.protocols.oip.service import GRPCInferenceService
from statecell_server.protocols.standing import Health, Reflection
from statecell_server.protocols.v1.service import InferenceService
from statecell_server.runtimes.runtime import DeviceLost
from statecell_server.telemetry.access_log import access_log
from statecell_server.transport import address
from statecell_server.transport.grpcio_server import GrpcioServer
from statecell_server.transport.http2.server import Server
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates, TlsFiles
from statecell_server.transport.watch import Watch, together
from statecell_server.workers.crew import Crew
from statecell_server.workers.place import Place

if TYPE_CHECKING:
    from statecell_server.telemetry.traces import Traces
    from statecell_server.transport.http1.server import HttpServer

SERVICES = ("statecell.v1.InferenceService", "inference.GRPCInferenceService")

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.25
CERTIFICATE_SECONDS = 5.0
"""Between two looks at the files of certificates and tokens."""
TRACES_SECONDS = 2.0
"""At the end, for what a collector is still to get."""
STORE = "statecell.store"
"""What grpc.health.v1 is asked for to know whether durable sessions are served."""


def _password(path: Path | None) -> str | None:
    """The file's, without the newline at its end. Raises ConfigError, which says nothing of what is in it."""
    if path is None:
        return None
    try:
        password = path.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ConfigError(f"--store-password-file {path} cannot be read: {why}; expected the password alone") from None
    if not password or "\n" in password or len(password) > 4096:
        raise ConfigError(
            f"--store-password-file {path} is empty, or more than one line of 4096 characters; expected the password"
        )
    return password


class App:
    """`await App(config).run()` serves until SIGTERM, SIGHUP or Ctrl-C, and then finishes what is in flight."""

    def __init__(self, config: Config, place: Place | None = None) -> None:
        """Loads the models. Raises runtime.LoadError, and AddressError where it cannot listen, as run does.

        `place`: among the workers of a server with several; their supervisor has seen to the address.
        """
        self._config = config
        if place is None:
            address.check(config.host, config.port)  # before the models, which may take minutes
        check_listening(config)
        if config.http_port is not None:
            self._check_http(config.host, config.http_port)
        self._certificates = self._read_certificates(config, "h2")
        self._http_certificates = self._read_certificates(config, "http/1.1") if config.http_port is not None else None
        self._traces = self._traces_to(config.otlp_endpoint) if config.traced else None
        watches: list[Watch] = [access_log] if config.access_log else []
        self._watch = together(watches + ([self._traces] if self._traces is not None else []))
        self._tokens = Tokens(config.tokens)
        state_key = StateKey(config.state_key)
        self._store = self._store_behind(config, state_key)
        self._engine = Engine(config, self._store, self._changed, self._lose, state_key)
        self._oip_service = GRPCInferenceService(self._engine, config)
        self._crew = None if place is None else Crew(place, self._engine, self._oip_service, self._limits())
        self._service = InferenceService(self._engine) if self._crew is None else self._crew.service
        self._health = Health()
        self._reflection = Reflection([*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME])
        self._ready = False  # as grpc.health.v1 says of the server as a whole
        self._stop = asyncio.Event()
        self._lost = ""  # why no more can be served
        self._news = asyncio.Event()
        self._reported: set[str] = set()

    @staticmethod
    def _check_http(host: str, port: int) -> None:
        """Before the models, too."""
        address.check(host, port, "--http-port")
        try:
            import statecell_server.web  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "--http-port needs Starlette, uvicorn and prometheus-client: pip install 'statecell-server[http]'"
            ) from error

    @staticmethod
    def _traces_to(endpoint: str | None) -> "Traces | None":
        """None where the environment asks for what is not installed. Raises ConfigError."""
        try:
            from statecell_server.telemetry.traces import Traces
        except ImportError as error:
            missing = "traces need OpenTelemetry: pip install 'statecell-server[otel]'"
            if endpoint is not None:
                raise ConfigError(f"--otlp-endpoint: {missing}") from error
            log.warning("the environment asks for traces (OTEL_EXPORTER_OTLP_ENDPOINT), there will be none: %s", missing)
            return None
        return Traces(__version__, endpoint)

    @staticmethod
    def _read_certificates(config: Config, protocol: str) -> Certificates | None:
        if config.tls_cert is None or config.tls_key is None:
            return None
        return Certificates(TlsFiles(config.tls_cert, config.tls_key, config.tls_client_ca), protocol)

    def _store_behind(self, config: Config, key: StateKey) -> CircuitBreaker | None:
        """The store of the configuration behind its circuit breaker, where there is one. Raises ConfigError."""
        if not config.store:
            return None
        if config.store == "memory":
            return self._guarded(MemoryStore(config.longest_ttl), key)
        try:
            from statecell_server.durability.valkey_store import ValkeyStore
        except ImportError as error:
            raise ConfigError("--store valkey://... needs valkey-py: pip install 'statecell-server[valkey]'") from error
        password = _password(config.store_password_file)
        try:
            store = ValkeyStore(config.store, ttl=config.longest_ttl, timeout=config.store_timeout, password=password)
        except (ValueError, TypeError, AttributeError):
            # Nothing of what it says: there may be a piece of the password in it.
            shown = without_secrets(config.store)
            raise ConfigError(f"--store is {shown!r}, which valkey-py cannot read; expected valkey://host:port/db") from None
        return self._guarded(store, key)

    def _guarded(self, store: StateStore, key: StateKey) -> CircuitBreaker:
        return CircuitBreaker(SealedStore(store, key) if key.sealing else store, self._changed)

    def _changed(self) -> None:
        self._news.set()

    def _lose(self, reason: str) -> None:
        """A device broke, as some thread has found: nothing can be run there any more by this process, but by its successor."""
        log.critical("stopping: %s", reason)
        self._lost = reason
        self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self) -> None:
        """Raises ConfigError, and DeviceLost at the end where that was the reason for it."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup: it is to outlive its terminal
                self._loop.add_signal_handler(number, self._stop.set)
        server = self._server()
        await self._engine.start()
        try:
            if self._crew is not None:
                await self._crew.listen()
            port = await server.listen(self._config.host, self._config.port, shared=self._crew is not None)
        except OSError as error:
            await self._engine.stop()
            raise address.explained(error, self._config.host, self._config.port) from error
        await self._report()
        self._ready = True
        http = await self._listen_http(server)
        tasks = [asyncio.create_task(self._keep_reporting())]
        watched: list[Certificates | Tokens] = [self._tokens, *filter(None, (self._certificates, self._http_certificates))]
        tasks += [asyncio.create_task(self._keep_looking(files)) for files in watched]
        if self._store is not None:
            tasks.append(asyncio.create_task(self._store.watch()))
        # What was loaded stays: the collector need not look at it again. Steps leave no circles, so it can come rarely.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)
        log.info("models: %s", ", ".join(f"{runner.name}/{runner.version}" for runner in self._engine.models))
        self._announce(port)
        if http is not None:
            self._announce(http[1], "HTTP on")
        await self._stop.wait()
        await self._drain(server, None if http is None else http[0])
        for task in tasks:
            task.cancel()
        if self._store is not None:
            await self._store.close()
        if self._traces is not None:
            closing = threading.Thread(target=self._traces.close, daemon=True)  # the collector may not answer
            closing.start()
            await asyncio.to_thread(closing.join, TRACES_SECONDS)
        if self._lost:
            raise DeviceLost(self._lost)

    async def _listen_http(self, server: Server | GrpcioServer) -> "tuple[HttpServer, int] | None":
        """The server and its port. Raises AddressError."""
        if self._config.http_port is None:
            return None
        from statecell_server.web import web

        http = web(
            self._engine,
            self._store,
            self._oip_service,
            self._config,
            self._limits(),
            server,
            lambda: self._ready,
            self._http_certificates,
            self._tokens,
            self._watch,
        )
        try:
            return http, await http.listen(self._config.host, self._config.http_port)
        except OSError as error:
            await server.stop(0)
            await self._engine.stop()
            raise address.explained(error, self._config.host, self._config.http_port, "--http-port") from error

    def _announce(self, port: int, what: str = "listening on") -> None:
        if self._config.insecure and not is_loopback(self._config.host):
            log.warning(
                "--host %s: every machine that reaches port %d can use the models and sessions", self._config.host, port
            )
        try:
            print(f"{what} {self._config.host}:{port}", flush=True)
        except OSError as error:  # nobody reads it; the end of the process would fail on what is still to be written
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            log.warning("%s %s:%d; standard output is closed: %s", what, self._config.host, port, error.strerror)

    def _limits(self) -> Limits:
        return Limits(
            message=self._config.max_message,
            metadata=self._config.max_metadata,
            connections=self._config.max_connections,
            memory=self._config.connection_memory,
            idle_seconds=self._config.idle_connection,
        )

    def _server(self) -> Server | GrpcioServer:
        kind = Server if self._config.front == "http2" else GrpcioServer
        server = kind(self._limits(), self._certificates, self._tokens, self._watch)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._service, server)
        server.add_direct_handlers(SERVICES[0], self._service.direct)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        oip = self._oip_service if self._crew is None else self._crew.oip_service
        oip_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(oip, server)
        server.add_direct_handlers(SERVICES[1], self._oip_service.direct)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self._reflection, server)
        return server

    async def _keep_reporting(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._report()

    @staticmethod
    async def _keep_looking(files: Certificates | Tokens) -> None:
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            await asyncio.to_thread(files.look)  # files may be far away

    async def _report(self) -> None:
        """grpc.health.v1: the server as a whole, the services, each model by its name, and the store.

        A store in trouble leaves the server itself ready: sessions in its memory go on.
        """
        ready = dict.fromkeys(
            self._reported | self._engine.models.failing, False
        )  # those that were unloaded, or cannot be loaded
        ready |= dict.fromkeys(("", *SERVICES, *(runner.name for runner in self._engine.models)), True)
        if self._store is not None:
            ready[STORE] = not self._store.open
        for name, fine in ready.items():
            status = health_pb2.HealthCheckResponse.SERVING if fine else health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(name, status)
        self._reported = set(ready)

    async def _drain(self, server: Server | GrpcioServer, http: "HttpServer | None") -> None:
        log.info("stopping: finishing what is in flight, for %g s at most", self._config.drain_seconds)
        seconds, began = self._config.drain_seconds, time.monotonic()
        self._ready = False
        await self._health.enter_graceful_shutdown()
        await asyncio.wait([asyncio.create_task(self._engine.drain())], timeout=seconds / 2)
        self._service.drain()
        (self._oip_service if self._crew is None else self._crew.oip_service).drain()
        self._reflection.end()
        if self._store is not None:
            # Until the clients of durable sessions have heard that they are to go elsewhere: gRPC would cancel calls that
            # arrive at the moment of its stop.
            await asyncio.sleep(min(LINGER_SECONDS, seconds / 4))
        rest = max(began + seconds - time.monotonic(), 0)
        await asyncio.gather(server.stop(rest), *([http.stop(rest)] if http is not None else []))
        if self._crew is not None:
            await self._crew.leave(began + seconds)
        await self._engine.stop()
        self._oip_service.close()
        log.info("stopped")
