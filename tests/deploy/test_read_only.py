"""A server where nothing can be written, as in a container with a read-only root."""

from pathlib import Path

import numpy as np
import pytest
import trustme
from statecell_client import Client, Tls

from tests.conftest import Serve


def test_it_loads_its_models_and_its_certificate_without_a_place_for_temporary_files(
    serve: Serve, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc/nowhere']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    flags = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"), "--trial-load", "always")
    with serve(*flags) as server, Client(server.address, tls=Tls(ca=tmp_path / "ca.pem")) as client:
        assert client.infer("lstm", x=np.zeros((2, 1, 10), np.float32))["y"].shape == (2, 1, 20)
