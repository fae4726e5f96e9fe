"""buf: clean protos that break nobody, and its curl as a client that has never seen them."""

import base64
import json
import subprocess
from typing import Any

import numpy as np
import pytest
from google.rpc import error_details_pb2

from tests.conftest import Server
from tests.outside.conftest import ROOT, Run
from tests.server.caller import Caller

PLAIN = ["--protocol", "grpc", "--http2-prior-knowledge"]
"""gRPC without TLS; schemas by reflection, as is the default."""


def test_the_protos_are_clean(buf: Run) -> None:
    run = buf("lint", "protos")
    assert run.returncode == 0, run.stdout


def test_the_protos_break_nobody_who_has_those_of_the_last_release(buf: Run) -> None:
    describe = ["git", "-C", str(ROOT), "describe", "--tags", "--abbrev=0"]
    tag = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    if not tag:
        pytest.skip("there is no release yet: git describe --tags finds none")
    run = buf("breaking", "protos", "--against", f".git#tag={tag},subdir=protos")
    assert run.returncode == 0, run.stdout


def curl(buf: Run, server: Server, method: str, message: dict[str, Any]) -> dict[str, Any]:
    """One call by reflection, JSON in and out."""
    run = buf("curl", *PLAIN, "--data", json.dumps(message), f"http://{server.address}/{method}")
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout))


def test_buf_curl_finds_the_services_by_reflection(buf: Run, server: Server) -> None:
    run = buf("curl", *PLAIN, "--list-methods", f"http://{server.address}")
    assert run.returncode == 0, run.stderr
    assert "inference.GRPCInferenceService/ModelInfer" in run.stdout
    assert "statecell.v1.InferenceService/Step" in run.stdout
    assert "channelz" not in run.stdout.lower()


def test_buf_curl_steps_a_sequence(buf: Run, server: Server) -> None:
    x = np.arange(20, dtype=np.float32).reshape(2, 1, 10) / 20
    whole = Caller(server.address).infer("lstm", x)["y"]
    for t in range(2):
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1, 10], "contents": {"fp32Contents": x[t].ravel().tolist()}}
        flags = {"sequence_id": {"stringParam": "curl"}, "sequence_start": {"boolParam": t == 0}}
        message = {"modelName": "lstm", "id": str(t), "inputs": [tensor], "parameters": flags}
        answer = curl(buf, server, "inference.GRPCInferenceService/ModelInfer", message)
        assert answer["id"] == str(t)
        assert answer["parameters"] == {"step_index": {"int64Param": str(t + 1)}}
        raw = base64.b64decode(answer["rawOutputContents"][0])
        assert np.array_equal(np.frombuffer(raw, np.float32), whole[t].ravel())


def test_buf_curl_sees_an_errors_reason(buf: Run, server: Server) -> None:
    method = "inference.GRPCInferenceService/ModelMetadata"
    run = buf("curl", *PLAIN, "--data", '{"name": "nothing"}', f"http://{server.address}/{method}")
    assert run.returncode != 0
    error = json.loads(run.stderr)
    assert error["code"] == "not_found"
    (detail,) = error["details"]
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (detail["type"], info.reason) == ("google.rpc.ErrorInfo", "MODEL_NOT_FOUND")
