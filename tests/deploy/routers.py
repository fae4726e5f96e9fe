"""Router: HAProxy, nginx or Envoy with its configuration from deploy/, in front of two replicas."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from statecell_client import Tls

from tests.faults.replicas import Replica, free_port
from tests.test_packages import ROOT

DEPLOY = ROOT / "deploy"
ENVOY = ROOT / ".venv-deploy/bin/envoy"


class Routed(Replica):
    """A replica with the HTTP port that a router asks for its health."""

    def __init__(self, models: Path, *flags: str) -> None:
        self.http_port = free_port()
        super().__init__(models, "--http-port", str(self.http_port), *flags)


@dataclass
class Place:
    """What a configuration is rewritten for: the names and ports in it are those of deploy/compose.yaml."""

    folder: Path
    port: int
    replicas: tuple[Routed, Routed]

    def written(self, name: str, *more: tuple[str, str]) -> Path:
        """The configuration with these addresses. Each text that is replaced must be in it."""
        text = (DEPLOY / name).read_text()
        for old, new in (("/certs/", f"{self.folder}/"), *more):
            assert old in text, f"deploy/{name} has no {old!r}"
            text = text.replace(old, new)
        path = self.folder / name
        path.write_text(text)
        return path

    def haproxy(self) -> list[str]:
        servers = [
            (f"server replica-{i} replica-{i}:50051", f"server replica-{i} {r.address} port {r.http_port}")
            for i, r in enumerate(self.replicas, 1)
        ]
        return [
            "haproxy",
            "-db",
            "-f",
            str(self.written("haproxy.cfg", ("bind :50050", f"bind 127.0.0.1:{self.port}"), *servers)),
        ]

    def nginx(self) -> list[str]:
        servers = [(f"server replica-{i}:50051", f"server {r.address}") for i, r in enumerate(self.replicas, 1)]
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"  {kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        listen = ("listen 50050", f"listen 127.0.0.1:{self.port}")
        path = self.written("nginx.conf", listen, ("http {\n", f"http {{\n{own}"), *servers)
        log = str(self.folder / "error.log")
        return ["nginx", "-e", log, "-c", str(path), "-g", f"daemon off; pid {self.folder}/nginx.pid; error_log {log};"]

    def envoy(self) -> list[str]:
        servers = [
            (f"address: replica-{i}, port_value: 50051", f"address: 127.0.0.1, port_value: {r.port}")
            for i, r in enumerate(self.replicas, 1)
        ]
        listen = ("address: 0.0.0.0, port_value: 50050", f"address: 127.0.0.1, port_value: {self.port}")
        path = self.written("envoy.yaml", listen, ("port_value: 9901", "port_value: 0"), *servers)
        return [str(ENVOY), "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning", "-c", str(path)]


COMMANDS: dict[str, Callable[[Place], list[str]]] = {"haproxy": Place.haproxy, "nginx": Place.nginx, "envoy": Place.envoy}
HOW = {"haproxy": "apt-get install haproxy", "nginx": "apt-get install nginx", "envoy": "make outside"}


def missing(name: str) -> str:
    """Why the program cannot be run here; "" where it can."""
    found = ENVOY.exists() if name == "envoy" else shutil.which(name) is not None
    if shutil.which("openssl") is None:
        return "openssl is not installed: apt-get install openssl"
    return "" if found else f"{name} is not installed: {HOW[name]}"


class Router:
    """`with Router("envoy", folder, (a, b)) as router:` listens with TLS at `address`."""

    def __init__(self, name: str, folder: Path, replicas: tuple[Routed, Routed]) -> None:
        self._place = Place(folder, free_port(), replicas)
        self._name = name
        self.address = f"127.0.0.1:{self._place.port}"
        self.tls = Tls(ca=folder / "ca.pem")

    def __enter__(self) -> Self:
        folder = self._place.folder
        subprocess.run([DEPLOY / "certs.sh", folder], check=True, timeout=60)
        with (folder / "said").open("w") as said:
            self._process = subprocess.Popen(COMMANDS[self._name](self._place), stderr=said)
        try:
            with grpc.secure_channel(self.address, self.tls.credentials()) as channel:
                grpc.channel_ready_future(channel).result(15)
        except grpc.FutureTimeoutError:
            self.__exit__()
            raise AssertionError(f"{self._name} does not answer; it said: {(folder / 'said').read_text()[-2000:]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
