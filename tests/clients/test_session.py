"""Sessions on a real server."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from statecell_client import (
    Client,
    DtypeMismatch,
    EmptyTensor,
    InputRefused,
    InvalidRequest,
    ModelNotFound,
    NonFiniteInput,
    NotStreamable,
    ServerUnreachable,
    Session,
    SessionNotFound,
    ShapeMismatch,
    Snapshot,
    SnapshotMismatch,
    State,
    StatecellError,
    StepUnsettled,
)
from torch import nn

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def randn(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture
def session(client: Client) -> Iterator[Session]:
    with client.session("lstm") as session:
        yield session


@torch.no_grad()
def test_stepping_running_and_streaming_give_the_same_bits_and_pytorchs_numbers(
    client: Client, modules: dict[str, nn.Module]
) -> None:
    xs = randn(600, 1, 10)
    answers = []
    for way in ("step", "run", "stream", "stream ahead"):
        with client.session("lstm") as session:
            match way:
                case "step":
                    ys = np.stack([session.step(x) for x in xs])
                case "run":
                    ys = session.run(xs)
                case "stream":
                    ys = np.stack(list(session.stream(xs)))
                case _:
                    ys = np.stack(list(session.stream(xs, ahead=50)))
            assert session.step_index == 600
            answers.append((ys, *session.state))
    for other in answers[1:]:
        for one, two in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
    y, (h_n, c_n) = modules["lstm"](torch.from_numpy(xs))
    for got, want in zip(answers[0], (y, h_n, c_n), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def test_a_step_is_answered_as_it_was_asked(client: Client, session: Session) -> None:
    assert session.step(randn(10)).shape == (20,)
    assert session.step(randn(1, 10)).shape == (1, 20)
    with client.session("lstm", batch=3) as several:
        assert several.step(randn(3, 10)).shape == (3, 20)
    with client.session("letters") as letters, client.session("letters", batch=2) as two:
        assert letters.step(5).shape == (17,)
        assert two.step([5, 6]).shape == (2, 17)
        assert letters.run([[1, 2, 3]]).shape == (1, 3, 17)


def test_several_inputs_go_and_several_outputs_come_by_name(client: Client) -> None:
    with client.session("two") as session:
        answer = session.step(u=[1, 2, 3], v=[1.5, 2])
        assert {name: y.shape for name, y in answer.items()} == {"y": (2,), "y_1": (3,)}
        streamed = list(session.stream([{"u": randn(3), "v": randn(2)}] * 5, ahead=2))
        assert [y["y_1"].shape for y in streamed] == [(3,)] * 5
        with pytest.raises(InvalidRequest, match="give each by its name"):
            session.step(randn(3))
        with pytest.raises(InvalidRequest, match="needs 'v'"):
            session.step(u=randn(3))
        with pytest.raises(ShapeMismatch, match="some inputs have a batch axis"):
            session.step(u=randn(3), v=randn(1, 2))


def test_torch_in_torch_out(session: Session) -> None:
    assert isinstance(session.step(torch.zeros(10)), torch.Tensor)
    assert isinstance(session.run(torch.zeros(4, 1, 10)), torch.Tensor)
    assert isinstance(session.step(np.zeros(10)), np.ndarray)
    with_gradient = torch.zeros(10, requires_grad=True)
    assert not session.step(with_gradient).requires_grad


def test_an_input_may_depend_on_the_answer_before_it(session: Session) -> None:
    answers = [np.zeros(20, np.float32)]

    def last_answers() -> Iterator[Array]:
        while len(answers) < 6:
            yield answers[-1][:10]

    for y in session.stream(last_answers()):
        answers.append(y)  # noqa: PERF402 - the source reads it meanwhile
    session.reset()
    x = np.zeros(10, np.float32)
    for y in answers[1:]:
        np.testing.assert_array_equal(session.step(x), y)
        x = y[:10]


def test_the_state_is_a_tuple_as_of_pytorch_and_has_names(
    client: Client, session: Session, modules: dict[str, nn.Module]
) -> None:
    xs = randn(7, 10)
    session.run(xs[:, None])
    with torch.no_grad():
        _, want = modules["lstm"](torch.from_numpy(xs[:, None]))
    h, c = session.state
    for got, expected in zip((h, c), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    state = pickle.loads(pickle.dumps(session.state))
    assert isinstance(state, State)
    assert (list(state.keys()), "h_0" in state, "h_n" in state) == (["h_0", "c_0"], True, False)
    np.testing.assert_array_equal(state["c_0"], state[1])
    with pytest.raises(KeyError, match="no state 'h', expected h_0, c_0"):
        state["h"]
    x = randn(1, 1, 10)
    y, (h_n, _) = client.lstm("lstm")(x, state)
    outputs = client.infer("lstm", x=x, **state)
    np.testing.assert_array_equal(y, outputs["y"])
    np.testing.assert_array_equal(h_n, outputs["h_n"])
    with client.session("gru") as gru:
        gru.step(randn(4))
        (h_0,) = gru.state
        assert h_0.shape == (1, 1, 6)


def test_a_stream_closed_early_leaves_a_session_that_says_so(client: Client, session: Session) -> None:
    xs = randn(40, 10)
    stream = session.stream(xs, ahead=8)
    next(stream)
    stream.close()
    assert session.step_index == 16
    with pytest.raises(StepUnsettled, match="closed 15 steps after the last answer"):
        session.step(xs[16])
    state = session.state
    with client.session("lstm") as other:
        other.run(xs[:16, None])
        np.testing.assert_array_equal(state["h_0"], other.state["h_0"])
        np.testing.assert_array_equal(session.step(xs[16]), other.step(xs[16]))


def test_a_generator_closed_early_leaves_the_session_behind_its_last_answer(session: Session) -> None:
    stream = session.stream(x for x in randn(40, 10))
    next(stream), next(stream)
    stream.close()
    assert session.step_index == 2
    session.step(randn(10))


@pytest.mark.parametrize("ahead", [1, 4])
def test_an_error_of_the_source_comes_after_all_answers_and_the_session_goes_on(session: Session, ahead: int) -> None:
    def source() -> Iterator[Array]:
        yield from randn(10, 10)
        raise LookupError("no more ticks")

    answers: list[Array] = []
    with pytest.raises(LookupError, match="no more ticks"):
        answers.extend(session.stream(source(), ahead=ahead))
    assert len(answers) == session.step_index == 10
    session.step(randn(10))


def test_a_source_may_fill_the_same_buffer_again_and_again(session: Session) -> None:
    xs, buffer = randn(20, 10), np.empty(10, np.float32)

    def source() -> Iterator[Array]:
        for x in xs:
            buffer[:] = x
            yield buffer

    ys = list(session.stream(source(), ahead=8))
    session.reset()
    np.testing.assert_array_equal(ys, session.run(xs[:, None])[:, 0])


@pytest.mark.parametrize("ahead", [None, 1, 4])
def test_a_bad_input_in_a_stream_stops_it_there(session: Session, ahead: int | None) -> None:
    answers: list[Array] = []
    with pytest.raises(ShapeMismatch):
        answers.extend(session.stream([*randn(10, 10), randn(9), randn(10)], ahead=ahead))
    assert len(answers) == session.step_index == 10
    session.step(randn(10))


def test_forks_and_snapshots_go_on_from_the_same_state(client: Client, session: Session) -> None:
    session.run(randn(5, 1, 10))
    x = randn(10)
    twin = session.fork()
    forks = session.fork(2)
    snapshot = Snapshot.from_bytes(session.snapshot().to_bytes())
    assert (snapshot.model, snapshot.batch, snapshot.step_index) == ("lstm", 1, 5)
    restored = client.session("lstm", snapshot=snapshot)
    again = client.session("lstm", state=session.state)
    assert [s.step_index for s in (twin, *forks, restored, again)] == [5, 5, 5, 5, 0]
    y = session.step(x)
    for other in (twin, *forks, restored, again):
        with other:
            np.testing.assert_array_equal(other.step(x), y)
            assert other.id != session.id


def test_reset_begins_again(session: Session) -> None:
    x = randn(10)
    first = session.step(x)
    session.step(x)
    session.reset()
    assert session.step_index == 0
    np.testing.assert_array_equal(session.step(x), first)


def test_leaving_the_block_deletes_the_session(client: Client) -> None:
    with client.session("lstm") as session:
        assert session.id in [s.id for s in client.sessions("lstm")]
    assert session.id not in [s.id for s in client.sessions()]
    with pytest.raises(SessionNotFound, match=session.id):
        session.step(randn(10))
    session.close()


def test_each_bad_input_has_its_error_and_the_session_goes_on(session: Session) -> None:
    xs = randn(300, 1, 10)
    xs[290] = np.nan
    bad: list[tuple[Callable[[], object], type[StatecellError], str]] = [
        (lambda: session.step(randn(9)), ShapeMismatch, r"'x' has shape \[9\], expected \[10\]"),
        (lambda: session.step(randn(2, 10)), ShapeMismatch, r"'x' has shape \[2, 10\], expected \[batch=1, 10\]"),
        (lambda: session.run(randn(3, 10)), ShapeMismatch, r"expected \[seq_len, batch=1, 10\]"),
        (lambda: session.run(randn(3, 2, 10)), ShapeMismatch, r"'x' has shape \[3, 2, 10\]"),
        (lambda: session.run(np.zeros((0, 1, 10))), EmptyTensor, "size 0"),
        (lambda: session.step(["a"] * 10), DtypeMismatch, "expected float32"),
        (lambda: session.step(np.zeros(10, complex)), DtypeMismatch, "complex128"),
        (lambda: session.step([[1], [1, 2]]), InvalidRequest, "'x' is no array"),
        (lambda: session.step(np.full(10, np.nan)), NonFiniteInput, "finite"),
        (lambda: list(session.stream([np.full(10, np.inf)])), NonFiniteInput, "finite"),
        (lambda: session.run(xs), NonFiniteInput, "NaN"),
        (session.step, InvalidRequest, "needs 'x'"),
        (lambda: session.step(z=1), InvalidRequest, "no 'z', expected x"),
        (lambda: session.step(1, z=1), InvalidRequest, "besides"),
    ]
    for call, kind, message in bad:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert caught.value.reason == kind.reason
    assert session.step_index == 0
    session.step(randn(10))


def test_an_id_outside_the_vocabulary_is_refused_by_the_model(client: Client) -> None:
    with client.session("letters") as session:
        with pytest.raises(InputRefused):
            session.step(17)
        with pytest.raises(DtypeMismatch, match="float64, expected int64"):
            session.step(1.5)
        session.step(np.uint8(16))


def test_what_cannot_be_a_session_says_why(client: Client, session: Session) -> None:
    with pytest.raises(ModelNotFound, match="nope"):
        client.session("nope")
    with pytest.raises(NotStreamable, match="bidirectional"):
        client.session("both_ways")
    with pytest.raises(SnapshotMismatch):
        client.session("lstm_cell", snapshot=session.snapshot())
    with pytest.raises(SnapshotMismatch, match="not a snapshot"):
        Snapshot.from_bytes(b"something else")
    with pytest.raises(InvalidRequest, match="not from both"):
        client.session("lstm", state=session.state, snapshot=session.snapshot())
    with pytest.raises(InvalidRequest, match="1 came"):
        client.session("lstm", state=[randn(2, 1, 20)])
    with pytest.raises(ShapeMismatch, match="'h_0'"):
        client.session("lstm", state=[randn(2, 2, 20)] * 2)


def test_threads_share_a_client_and_their_sessions_do_not_mix(address: str) -> None:
    xs = randn(40, 10)

    with Client(address) as client:

        def one(number: int) -> list[Array]:
            with client.session("lstm") as session:
                return [session.step(x) for x in xs[number : number + 20]]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(one, range(20)))
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, one(number))


def test_infer_takes_any_sizes_and_gives_outputs_and_final_states_by_name(client: Client) -> None:
    answer = client.infer("lstm", x=randn(4, 2, 10), h_0=randn(2, 2, 20), c_0=randn(2, 2, 20))
    assert {name: y.shape for name, y in answer.items()} == {"y": (4, 2, 20), "h_n": (2, 2, 20), "c_n": (2, 2, 20)}
    with pytest.raises(InvalidRequest, match="needs 'c_0'"):
        client.infer("lstm", x=randn(4, 2, 10), h_0=randn(2, 2, 20))
    with pytest.raises(InvalidRequest, match="no 'z'"):
        client.infer("lstm", x=randn(4, 2, 10), z=1)


def test_models_are_described(client: Client) -> None:
    names = [model.name for model in client.models()]
    assert names == sorted(names)
    model = client.model("letters")
    assert (model.version, model.device) == ("1", "cpu")
    assert model.spec.inputs[0].shape == ("batch", "seq_len")
    assert len(model.digest) == 64


def test_an_address_where_nobody_answers_is_named_at_once() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1 .*start one there") as caught:
        client.models()
    assert caught.value.code.name == "UNAVAILABLE"
