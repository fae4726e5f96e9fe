"""A server that strangers could reach starts only where it knows who calls and nobody listens."""

from pathlib import Path
from typing import Any

import pytest
from statecell_server.access.listening import check
from statecell_server.config import Config, ConfigError

FILE = Path("file")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machine_alone_may_be_served_in_clear_text(host: str) -> None:
    check(Config(models=Path(), host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.com"])
def test_others_need_tls_and_tokens_or_certificates_or_a_word(host: str) -> None:
    tls: dict[str, Any] = {"tls_cert": FILE, "tls_key": FILE}
    given: dict[str, Any]
    for given, words in (
        ({}, "needs --tls-cert and --tls-key and --tokens, or --tls-client-ca"),
        (tls, "needs --tokens, or --tls-client-ca; or say --insecure"),
        ({"tokens": FILE}, "needs --tls-cert and --tls-key; or say --insecure"),
    ):
        with pytest.raises(ConfigError, match=words):
            check(Config(models=Path(), host=host, **given))
    enough: dict[str, Any]
    for enough in ({**tls, "tokens": FILE}, {**tls, "tls_client_ca": FILE}, {"insecure": True}):
        check(Config(models=Path(), host=host, **enough))
