"""What may stand where a server's address is expected."""

import pytest
from statecell_client import Client
from statecell_client.cli.app import app
from statecell_client.connection import check_address
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
    "given", ["box:9000", "[::1]:7000", "dns:///box:9000", "unix:///run/statecell.sock", "ipv4:10.0.0.2:80"]
)
def test_what_grpc_itself_takes_for_an_address_is_let_through(given: str) -> None:
    check_address(given)


def test_health_gives_a_web_address_as_its_own_answer() -> None:
    result = CliRunner().invoke(app, ["health", "--server", "https://box:9000", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    web, absent = result.stdout.splitlines()
    assert web.startswith("https://box:9000: NO_ADDRESS: ")
    assert web.endswith("write 'box:9000'")
    assert absent.startswith("127.0.0.1:1: UNAVAILABLE: ")
