"""What may stand where a server's address is expected."""

import pytest
from statecell_client import AsyncClient, Client, Retry
from statecell_client.address import check
from statecell_client.cli.app import app
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("given", "advised"),
    [
        ("https://models.example:8443", "models.example:8443"),
        ("grpc://[::1]:7000", "[::1]:7000"),
        ("HTTP://box:9000/v1/models", "box:9000"),
    ],
)
def test_a_web_address_is_refused_with_the_address_to_write(given: str, advised: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT") as refused:
        Client(["first:1", given])
    assert repr(given) in str(refused.value)
    assert str(refused.value).endswith(f"write {advised!r}")


@pytest.mark.parametrize(
    ("given", "advised"),
    [
        ("box", "'box:50051'"),
        ("10.0.0.2", "'10.0.0.2:50051'"),
        ("box:", "'box:50051'"),
        ("box:http", "'box:50051'"),
        ("box:70000", "'box:50051'"),
        ("box:0", "'box:50051'"),
        (":9000", "'localhost:50051'"),
        ("box:9000/", "'box:9000'"),
        (" box:9000", "'box:9000'"),
        ("one:1,two:2", "each server by itself: 'one:1' and 'two:2'"),
        ("one:1 two:2", "each server by itself: 'one:1' and 'two:2'"),
        ("fe80::1:9000", "in brackets: '[::1]:50051'"),
    ],
)
def test_what_is_no_host_and_port_is_refused_with_what_to_write(given: str, advised: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT") as refused:
        AsyncClient(given)
    assert str(refused.value).endswith(advised)


@pytest.mark.parametrize("given", [None, 50051, [], ["box:1", ""], ("box", 50051), b"box:1"])
def test_what_is_no_text_is_refused_as_what_it_is(given: object) -> None:
    with pytest.raises(ValueError, match="expected one or more such as 'localhost:50051'"):
        Client(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("retry", [5, {"timeout": 3}])
def test_what_is_no_retry_is_refused(retry: object) -> None:
    with pytest.raises(ValueError, match=r"expected a Retry, such as Retry\(timeout=30\)"):
        Client("box:1", retry=retry)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Retry's timeout is None, expected seconds"):
        Retry(timeout=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", ["box:9000", "[::1]:7000", "dns:///box:9000", "unix:///run/statecell.sock", "ipv4:10.0.0.2:80"]
)
def test_what_grpc_itself_takes_for_an_address_is_let_through(given: str) -> None:
    check(given)


def test_health_gives_a_web_address_as_its_own_answer() -> None:
    result = CliRunner().invoke(app, ["health", "--server", "https://box:9000", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    web, absent = result.stdout.splitlines()
    assert web.startswith("https://box:9000: NO_ADDRESS: ")
    assert web.endswith("write 'box:9000'")
    assert absent.startswith("127.0.0.1:1: UNAVAILABLE: ")
