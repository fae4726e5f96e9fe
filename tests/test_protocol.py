"""docs/protocol.md and the clients know all that is on the wire."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from google.rpc import code_pb2
from statecell.v1 import inference_pb2, model_pb2, tensor_pb2
from statecell_client import errors as client_errors
from statecell_server.errors import StatecellError
from statecell_server.protocols.status import CODES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
MESSAGES = [m for file in (tensor_pb2, model_pb2, inference_pb2) for m in file.DESCRIPTOR.message_types_by_name.values()]
REASONS = {kind.reason: code_pb2.Code.Name(code) for kind, code in CODES.items()}


def section(message: str) -> str:
    """From where the message is described to the next one."""
    found = re.search(rf"^(?:.*\. )?`{message}`.*?(?=\n(?:`[A-Z]|#)|\Z)", PAGE.partition("\n## Messages")[2], re.M | re.S)
    assert found, f"{message} is not described"
    return found[0].partition(f"`{message}`")[2]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_every_field_is_described_with_its_message(message: Descriptor) -> None:
    for field in message.fields:
        assert f"`{field.name}`" in section(message.name)


def test_every_rpc_has_its_row() -> None:
    table = PAGE.partition("\n## rpcs")[2].partition("\n## ")[0]
    methods = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].methods
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == [method.name for method in methods]


def test_every_data_type_is_named() -> None:
    for value in tensor_pb2.DataType.DESCRIPTOR.values:
        assert f"`{value.name}`" in PAGE


def test_every_reason_has_its_row_with_its_code() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+)", PAGE.partition("\n## Errors")[2], re.M))
    assert {reason: rows.get(reason) for reason in REASONS} == REASONS


def test_every_error_of_the_server_travels() -> None:
    assert set(CODES) == set(StatecellError.__subclasses__())


@pytest.mark.parametrize("source", ["node/src/errors.ts", "cpp/src/rich_error.cpp"])
def test_every_client_has_an_error_for_every_reason(source: str) -> None:
    text = (ROOT / "clients" / source).read_text()
    named = set(re.findall(r"""^\s+\{?"?([A-Z_]+)"?[:,] (?:raise_as<)?[A-Z]\w+""", text, re.M))
    assert set(REASONS) <= named
    assert set(client_errors._BY_REASON) - named <= {"UNKNOWN", "SESSION_GONE", "STEP_UNSETTLED", "STEP_IN_FLIGHT"}
