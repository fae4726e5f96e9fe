"""Over REST, and across REST and gRPC: a sequence is the caller's who began it; another's of that name is another."""

import json
from typing import Any

import numpy as np

from tests.server.access.conftest import Guarded
from tests.server.oip_caller import arrays, request
from tests.server.protocols.rest.rest import Reply, Rest, tensor

X = np.random.default_rng(9).standard_normal((6, 1, 1, 10), dtype=np.float32)


def asked(guarded: Guarded, name: str, path: str, content: object = None) -> Reply:
    with Rest(guarded.server.http) as rest:
        method, body = ("GET", None) if content is None else ("POST", json.dumps(content).encode())
        return rest.call(method, path, body, **({"Authorization": f"Bearer {guarded.tokens[name]}"} if name else {}))


def infer(guarded: Guarded, name: str, x: np.ndarray, **parameters: object) -> Reply:
    return asked(guarded, name, "/v2/models/lstm/infer", {"parameters": parameters, "inputs": [tensor(x)]})


def test_callers_of_the_same_sequence_id_step_sequences_of_their_own(guarded: Guarded) -> None:
    """By turns, alice over REST and gRPC, bob over REST alone; durable and not."""
    for sequence, durable in ((41, False), (42, True)):
        whole = {}
        for name, x in (("alice", X), ("bob", -X)):
            whole[name] = np.array(infer(guarded, name, x[:, 0]).json["outputs"][0]["data"], np.float32).reshape(6, -1)
        got: dict[str, list[np.ndarray]] = {"alice": [], "bob": []}
        for t in range(6):
            flags: dict[str, Any] = {"sequence_id": sequence, "sequence_start": t == 0, "sequence_end": t == 5}
            flags |= {"durable": True} if durable and t == 0 else {}
            for name, x in (("alice", X[t]), ("bob", -X[t])):
                if name == "alice" and t % 2:
                    y = arrays(guarded.of("alice").oip.ModelInfer(request("lstm", {"x": x}, **flags)))["y"]
                else:
                    reply = infer(guarded, name, x, **flags)
                    assert reply.status == 200, reply
                    y = np.array(reply.json["outputs"][0]["data"], np.float32)
                got[name].append(y.reshape(-1))
        for name, steps in got.items():
            assert np.array_equal(np.stack(steps), whole[name])


def test_a_sequence_of_another_is_one_that_was_never_begun(guarded: Guarded) -> None:
    assert infer(guarded, "alice", X[0], sequence_id=51, sequence_start=True).status == 200
    bob = infer(guarded, "bob", X[1], sequence_id=51)
    never = infer(guarded, "bob", X[1], sequence_id=52)
    assert bob.status == never.status == 404
    assert json.dumps(bob.json).replace("51", "52") == json.dumps(never.json)
    assert infer(guarded, "alice", X[1], sequence_id=51, sequence_end=True).status == 200


def test_without_a_token_nothing_is_said_and_models_are_an_admins_to_load(guarded: Guarded) -> None:
    for path in ("/v2", "/v2/models/lstm", "/v2/models/lstm/stats"):
        assert asked(guarded, "", path).status == 401
        assert asked(guarded, "alice", path).status == 200
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        assert asked(guarded, "", path).status == 200
    for name, status in (("alice", 403), ("root", 200)):
        assert asked(guarded, name, "/v2/repository/models/lstm/load", {}).status == status
