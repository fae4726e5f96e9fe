"""Random lives of sessions, against a reference LSTM in NumPy."""

from dataclasses import dataclass
from typing import Any

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule, run_state_machine_as_test
from statecell.v1 import inference_pb2 as pb

from tests.modules import modules
from tests.server.caller import Caller, reason_of

Array = np.ndarray[Any, Any]


class ReferenceLSTM:
    """nn.LSTM by its formula: i, f, g, o = W x + b + U h + d; c = f*c + i*g; h = o*tanh(c), in float64.

    Source: the documentation of torch.nn.LSTM.
    """

    def __init__(self, module: torch.nn.LSTM) -> None:
        weights = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
        self.layers = [
            [weights[f"{kind}_l{k}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            for k in range(module.num_layers)
        ]

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
        """x [batch, input_size], h and c [layers, batch, hidden_size] -> y [batch, hidden_size], h, c"""
        h, c = h.copy(), c.copy()
        for k, (w, u, b, d) in enumerate(self.layers):
            i, f, g, o = np.split(x @ w.T + b + h[k] @ u.T + d, 4, axis=-1)
            c[k] = c[k] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h[k] = np.tanh(c[k]) / (1 + np.exp(-o))
            x = h[k]
        return x, h, c


@dataclass
class Twin:
    """A session and what it must be."""

    id: str
    batch: int
    h: Array
    c: Array
    index: int = 0
    last: tuple[int, Array, Array] | None = None  # step_index, x and y of the last request


class Sessions(RuleBasedStateMachine):
    """Creates, steps, repeats, forks, resets, moves and deletes."""

    caller: Caller
    reference: ReferenceLSTM

    twins = Bundle("twins")

    @rule(target=twins, batch=st.integers(1, 3), seed=st.none() | st.integers(0, 99))
    def create(self, batch: int, seed: int | None) -> Twin:
        h, c = np.zeros((2, 2, batch, 20), np.float32)
        if seed is None:
            return Twin(self.caller.create("lstm", batch), batch, h.astype(float), c.astype(float))
        h, c = np.random.default_rng(seed).standard_normal((2, 2, batch, 20)).astype(np.float32)
        return Twin(self.caller.create("lstm", batch, h_0=h, c_0=c), batch, h.astype(float), c.astype(float))

    @rule(twin=twins, seq_len=st.integers(1, 5) | st.just(40), seed=st.integers(0, 99), indexed=st.booleans())
    def step(self, twin: Twin, seq_len: int, seed: int, indexed: bool) -> None:
        x = np.random.default_rng(seed).standard_normal((seq_len, twin.batch, 10)).astype(np.float32)
        y = self.caller.step(twin.id, x, twin.index if indexed else None)
        for t in range(seq_len):
            expected, twin.h, twin.c = self.reference.step(x[t].astype(float), twin.h, twin.c)
            np.testing.assert_allclose(y[t], expected, atol=2e-6)
        twin.last = (twin.index, x, y) if indexed else None
        twin.index += seq_len

    @rule(twin=twins)
    def repeat(self, twin: Twin) -> None:
        if twin.last is not None:
            index, x, y = twin.last
            assert np.array_equal(self.caller.step(twin.id, x, index), y)

    @rule(twin=twins, ahead=st.integers(1, 9))
    def skip(self, twin: Twin, ahead: int) -> None:
        with pytest.raises(grpc.RpcError) as error:
            self.caller.step(twin.id, np.zeros((1, twin.batch, 10), np.float32), twin.index + ahead)
        assert reason_of(error.value) == "STEP_OUT_OF_ORDER"

    @rule(target=twins, twin=twins, count=st.integers(1, 3))
    def fork(self, twin: Twin, count: int) -> Any:
        forks = self.caller.stub.ForkSession(pb.ForkSessionRequest(session_id=twin.id, count=count)).sessions
        return multiple(*(Twin(fork.session_id, twin.batch, twin.h, twin.c, twin.index) for fork in forks))

    @rule(target=twins, twin=twins)
    def move(self, twin: Twin) -> Twin:
        snapshot = self.caller.stub.GetState(pb.GetStateRequest(session_id=twin.id)).snapshot
        moved = self.caller.stub.CreateSession(pb.CreateSessionRequest(model="lstm", snapshot=snapshot)).session
        return Twin(moved.session_id, twin.batch, twin.h, twin.c, twin.index)

    @rule(twin=twins)
    def reset(self, twin: Twin) -> None:
        self.caller.stub.ResetSession(pb.ResetSessionRequest(session_id=twin.id))
        twin.h, twin.c, twin.index, twin.last = np.zeros_like(twin.h), np.zeros_like(twin.c), 0, None

    @rule(twin=twins)
    def look(self, twin: Twin) -> None:
        state = self.caller.state(twin.id)
        np.testing.assert_allclose(state["h_0"], twin.h, atol=2e-6)
        np.testing.assert_allclose(state["c_0"], twin.c, atol=2e-6)
        assert self.caller.index(twin.id) == twin.index

    @rule(twin=consumes(twins))
    def delete(self, twin: Twin) -> None:
        self.caller.stub.DeleteSession(pb.DeleteSessionRequest(session_id=twin.id))
        with pytest.raises(grpc.RpcError) as error:
            self.caller.state(twin.id)
        assert reason_of(error.value) == "SESSION_NOT_FOUND"


def test_any_life_of_sessions_agrees_with_the_reference(caller: Caller) -> None:
    class Served(Sessions):
        pass

    Served.caller = caller
    module = modules()["lstm"][0]
    assert isinstance(module, torch.nn.LSTM)
    Served.reference = ReferenceLSTM(module)
    run_state_machine_as_test(
        Served,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )
