"""TLS on the port itself: who is spoken to, who is refused, and certificates that change while it serves."""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from statecell_client import Client, ServerUnreachable, Tls
from statecell_client.cli.app import app
from statecell_server import app as app_module
from statecell_server.config import Config, ConfigError
from statecell_server.transport.limits import Limits
from statecell_server.transport.tls import Certificates, TlsError, TlsFiles
from typer.testing import CliRunner

from tests.conftest import LIMIT, Serve
from tests.server.transport.http2.echo import Front, say, talk


class Files:
    """A folder with an authority's certificates: of the server, of a client, of the authority."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client-key.pem"
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(self.ca))
        self.issue()
        client = self.authority.issue_cert("worker@statecell.test")
        self.client_key.write_bytes(client.private_key_pem.bytes())
        self.client_cert.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))

    def issue(self, authority: trustme.CA | None = None) -> None:
        """A new certificate for the server."""
        made = (authority or self.authority).issue_cert("localhost", "127.0.0.1")
        self.key.write_bytes(made.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    def serial(self, address: str) -> int:
        """Of the certificate that the server at this address shows now."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        if context.cert_store_stats()["x509"]:
            context.load_cert_chain(self.client_cert, self.client_key)
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=LIMIT) as plain, context.wrap_socket(plain) as secure:
            assert secure.selected_alpn_protocol() == "h2"
            shown = secure.getpeercert(binary_form=True)
        assert shown is not None
        return hash(shown)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(params=["http2", "grpcio"])
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_client_steps_over_tls_and_no_other_gets_in(serve: Serve, lstm_only: Path, files: Files, front: str) -> None:
    with serve("--tls-cert", str(files.cert), "--tls-key", str(files.key), "--front", front, models=lstm_only) as server:
        port = server.address.rsplit(":", 1)[1]
        x = np.ones((1, 10), np.float32)
        with Client(f"localhost:{port}", tls=Tls(ca=files.ca)) as client, client.session("lstm") as session:
            one = session.step(x)
            two = session.step(x)
            large = client.infer("lstm", x=np.ones((3000, 8, 10), np.float32))["y"]
        assert not np.array_equal(one, two)
        assert large.shape == (3000, 8, 20)
        stranger = trustme.CA()
        stranger.cert_pem.write_to_path(str(files.ca))
        for tls in (None, Tls(), Tls(ca=files.ca)):
            with Client(f"localhost:{port}", tls=tls) as client, pytest.raises(ServerUnreachable):
                client.models()


def test_clients_show_who_they_are(serve: Serve, lstm_only: Path, files: Files, front: str) -> None:
    flags = ["--tls-cert", files.cert, "--tls-key", files.key, "--tls-client-ca", files.ca, "--front", front]
    with serve(*map(str, flags), models=lstm_only) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        mine = Tls(files.ca, files.client_cert, files.client_key)
        with Client(address, tls=mine) as client:
            assert [m.name for m in client.models()] == ["lstm"]
        stranger = trustme.CA().issue_cert("worker@statecell.test")
        files.client_key.write_bytes(stranger.private_key_pem.bytes())
        files.client_cert.write_bytes(b"".join(blob.bytes() for blob in stranger.cert_chain_pems))
        for tls in (Tls(files.ca), mine):
            with Client(address, tls=tls) as client, pytest.raises(ServerUnreachable):
                client.models()


def test_the_command_speaks_tls(serve: Serve, lstm_only: Path, files: Files) -> None:
    with serve("--tls-cert", str(files.cert), "--tls-key", str(files.key), models=lstm_only) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        for command in (["models", "-s", address], ["health", "--server", address]):
            done = CliRunner().invoke(app, ["--tls-ca", str(files.ca), *command])
            assert done.exit_code == 0, done.output
            assert CliRunner().invoke(app, command).exit_code == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl: apt-get install curl")
def test_curl_is_answered(serve: Serve, lstm_only: Path, files: Files) -> None:
    with serve("--tls-cert", str(files.cert), "--tls-key", str(files.key), models=lstm_only) as server:
        url = f"https://localhost:{server.address.rsplit(':', 1)[1]}/statecell.v1.InferenceService/ListModels"
        command = ["curl", "--silent", "--include", "--cacert", str(files.ca), "--http2", "--data-binary", "@-", url]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        done = subprocess.run(command, input=bytes(5), capture_output=True, timeout=LIMIT, check=False)
    if b"unsupported protocol" in done.stderr.lower() or b"built-in" in done.stderr:
        pytest.skip("curl without HTTP/2: apt-get install curl")
    assert done.stdout.startswith(b"HTTP/2 200"), done
    assert b"lstm" in done.stdout


@pytest.fixture(params=["uvloop", "asyncio"])
def echo(request: pytest.FixtureRequest, files: Files) -> Iterator[tuple[Front, Certificates]]:
    loop_factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
    certificates = Certificates(TlsFiles(files.cert, files.key, files.ca))
    front = Front(loop_factory, Limits(message=8 << 20), certificates)
    yield front, certificates
    front.close()
    assert front.errors == []


def channel(front: Front, files: Files) -> grpc.Channel:
    tls = Tls(files.ca, files.client_cert, files.client_key)
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(front.address.replace("127.0.0.1", "localhost"), tls.credentials(), options)


def test_calls_and_streams_on_both_loops(echo: tuple[Front, Certificates], files: Files) -> None:
    front, _ = echo
    with channel(front, files) as secure:
        for size in (0, 1, 20_000, 5 << 20):
            assert say(secure)(b"x" * size) == b"x" * size
        assert len(say(secure)(b"large:6000000")) == 6_000_000
        assert list(talk(secure)(iter([b"m%d" % i for i in range(300)]))) == [b"m%d" % i for i in range(300)]


def test_a_new_certificate_is_shown_to_new_connections_and_the_old_go_on(
    echo: tuple[Front, Certificates], files: Files
) -> None:
    front, certificates = echo
    before = files.serial(front.address)
    with channel(front, files) as secure:
        assert say(secure)(b"one") == b"one"
        files.issue()
        assert files.serial(front.address) == before
        certificates.look()
        after = files.serial(front.address)
        assert after != before
        files.key.write_bytes(b"half of a")
        certificates.look()
        files.cert.unlink()
        certificates.look()
        assert files.serial(front.address) == after
        assert say(secure)(b"two") == b"two"


def test_whom_clients_must_be_signed_by_changes_too(echo: tuple[Front, Certificates], files: Files) -> None:
    front, certificates = echo
    with channel(front, files) as secure:
        assert say(secure)(b"one") == b"one"
    ours = files.ca.read_bytes()
    trustme.CA().cert_pem.write_to_path(str(files.ca))
    certificates.look()
    files.ca.write_bytes(ours)
    with channel(front, files) as secure, pytest.raises(grpc.RpcError) as refused:
        say(secure)(b"two", timeout=20)
    assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_handshakes_that_do_not_come_hold_up_nobody(echo: tuple[Front, Certificates], files: Files) -> None:
    front, _ = echo
    host, port = front.address.rsplit(":", 1)
    silent = [socket.create_connection((host, int(port))) for _ in range(30)]
    for number, connection in enumerate(silent):
        connection.sendall(b"\x16\x03\x01\x02" if number % 2 else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    with channel(front, files) as secure:
        assert say(secure)(b"x", timeout=LIMIT) == b"x"
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("front", ["http2", "grpcio"])
def test_the_server_notices_by_itself(files: Files, serve: Serve, lstm_only: Path, front: str) -> None:
    with serve("--tls-cert", str(files.cert), "--tls-key", str(files.key), "--front", front, models=lstm_only) as server:
        before = files.serial(server.address)
        files.issue()
        end = time.monotonic() + LIMIT
        while files.serial(server.address) == before:
            assert time.monotonic() < end, "the old certificate is still shown"
            time.sleep(0.5)


def test_what_is_wrong_with_the_files_is_said(files: Files, tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=r"--tls-key .*none.pem cannot be read: No such file"):
        Certificates(TlsFiles(files.cert, tmp_path / "none.pem"))
    with pytest.raises(TlsError, match=r"no certificate and its key: .*expected PEM"):
        Certificates(TlsFiles(files.cert, files.client_key))
    with pytest.raises(TlsError, match=r"--tls-client-ca .* has no certificates in PEM"):
        Certificates(TlsFiles(files.cert, files.key, files.key))
    for option, path in (("tls_cert", files.cert), ("tls_key", files.key), ("tls_client_ca", files.ca)):
        with pytest.raises(ConfigError, match="expected a certificate and its key together"):
            replace(Config(models=tmp_path), **{option: path})  # type: ignore[arg-type]
    assert app_module.CERTIFICATE_SECONDS < LIMIT / 4
    with pytest.raises(ValueError, match="expected both or neither"):
        Client("localhost:1", tls=Tls(cert=files.cert))
