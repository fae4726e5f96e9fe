"""A model of LSTM, GRU or RNN layers and nothing else is recognised by its graph, and runs as in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import statecell_export
import torch
from onnx import helper, numpy_helper
from statecell.spec import SPEC_KEY, ModelSpec
from statecell.tensor import Array
from statecell_server.config import Config
from statecell_server.device import Device
from statecell_server.engine.engine import Engine
from statecell_server.runtimes import loading
from statecell_server.runtimes.invariance import measure_variance
from statecell_server.runtimes.onnx_device import DeviceRuntime
from statecell_server.runtimes.onnx_graph import Graph
from statecell_server.runtimes.recurrent import RecurrentRuntime
from statecell_server.runtimes.stack import NotRecurrent, read_stack
from torch import nn

from tests.modules import Tagger
from tests.server.runtimes.test_device_arena import Pair, play

LAYERS: dict[str, nn.Module] = {
    "lstm": nn.LSTM(6, 20, 2),
    "without bias": nn.LSTM(6, 40, bias=False),
    "gru": nn.GRU(6, 17, batch_first=True),
    "two gru": nn.GRU(6, 33, 2),
    "rnn": nn.RNN(6, 17, 2, nonlinearity="relu"),
    "tanh": nn.RNN(6, 40, batch_first=True),
}


def path_of(name: str, folder: Path) -> Path:
    return folder / name.replace(" ", "-") / "1" / "model.onnx"


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layers")
    torch.manual_seed(0)
    for name, module in LAYERS.items():
        statecell_export.export(module.eval(), torch.randn(5, 3, 6), name=name.replace(" ", "-"), out=out)
    return out


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("others")
    torch.manual_seed(0)
    x = torch.randn(5, 3, 6)
    pair = (torch.randn(3, 6), torch.zeros(3, 9), (torch.zeros(3, 7), torch.zeros(3, 7)))
    for name, module, example, form in (
        ("tagger", Tagger(), torch.randint(0, 11, (3, 5)), "float32"),
        ("pair", Pair(), pair, "float32"),
        ("proj", nn.LSTM(6, 16, proj_size=5), x, "float32"),
        ("half", nn.LSTM(6, 20), x, "float16"),
        ("int8", nn.LSTM(6, 32), x, "int8"),
    ):
        statecell_export.export(module.eval(), example, name=name, out=out, form=form)
    return out


@pytest.mark.parametrize("name", LAYERS)
def test_layers_alone_are_recognised_and_no_row_depends_on_its_batch(layers: Path, name: str) -> None:
    runtime = RecurrentRuntime(path_of(name, layers))
    module = LAYERS[name]
    assert isinstance(module, nn.RNNBase)
    assert [layer.cell for layer in runtime._stack.layers] == [module.mode.split("_")[0]] * module.num_layers
    assert runtime._stack.batch_first == module.batch_first
    assert measure_variance(runtime, runtime.spec.min_batch, 9, longest=3) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tagger", "its x is"),
        ("pair", "its x is"),
        ("proj", "Scan stands where"),
        ("half", "another dtype"),
        ("int8", "a weight is computed"),
    ],
)
def test_a_model_with_something_else_in_it_is_not_taken(others: Path, name: str, why: str) -> None:
    with pytest.raises(NotRecurrent, match=why):
        RecurrentRuntime(path_of(name, others))


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.op_type == op_type)


def renamed(model: onnx.ModelProto) -> None:
    names = {name for n in model.graph.node for name in (*n.input, *n.output) if name}
    fixed = {v.name for v in (*model.graph.input, *model.graph.output)}
    known = {name: name if name in fixed else f"value {i}" for i, name in enumerate(sorted(names))} | {"": ""}
    for n in model.graph.node:
        n.input[:], n.output[:] = [known[i] for i in n.input], [known[o] for o in n.output]
        n.name = ""
    for tensor in model.graph.initializer:
        tensor.name = known[tensor.name]


def in_other_fields(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist()))


def as_constants(model: onnx.ModelProto) -> None:
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]


def clipped(model: onnx.ModelProto) -> None:
    node(model, "LSTM").attribute.append(helper.make_attribute("clip", 0.5))


def other_activations(model: onnx.ModelProto) -> None:
    node(model, "LSTM").attribute.append(helper.make_attribute("activations", ["HardSigmoid", "Tanh", "Tanh"]))


def states_swapped(model: onnx.ModelProto) -> None:
    inputs = node(model, "Concat").input
    inputs[0], inputs[1] = inputs[1], inputs[0]


def h_for_c(model: onnx.ModelProto) -> None:
    first = node(model, "LSTM")
    first.input[5], first.input[6] = first.input[6], first.input[5]


def scaled(model: onnx.ModelProto) -> None:
    last = next(n for n in model.graph.node if n.output[0] == "y")
    last.CopyFrom(helper.make_node("Add", [last.input[0], last.input[0]], ["y"]))


def with_peepholes(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 60), np.float32), "p"))
    node(model, "LSTM").input.append("p")


def second_layer_from_x(model: onnx.ModelProto) -> None:
    nodes = [n for n in model.graph.node if n.op_type == "LSTM"]
    nodes[1].input[0] = "x"
    nodes[1].input[1] = nodes[0].input[1]


Change = Callable[[onnx.ModelProto], None]


@pytest.mark.parametrize("change", [renamed, in_other_fields, as_constants])
def test_names_and_where_weights_are_do_not_matter(layers: Path, tmp_path: Path, change: Change) -> None:
    model = onnx.load(path_of("lstm", layers))
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    assert len(RecurrentRuntime(tmp_path / "model.onnx")._stack.layers) == 2


@pytest.mark.parametrize(
    "change", [clipped, other_activations, states_swapped, h_for_c, scaled, with_peepholes, second_layer_from_x]
)
def test_layers_that_compute_something_else_are_not_taken(layers: Path, change: Change) -> None:
    model = onnx.load(path_of("lstm", layers))
    change(model)
    (carried,) = [p.value for p in model.metadata_props if p.key == SPEC_KEY]
    onnx.checker.check_model(model)
    with pytest.raises(NotRecurrent):
        read_stack(Graph.read(model.SerializeToString()), ModelSpec.from_json(carried))


def test_a_gru_that_resets_before_its_product_is_not_taken(layers: Path) -> None:
    model = onnx.load(path_of("gru", layers))
    attributes = node(model, "GRU").attribute
    next(a for a in attributes if a.name == "linear_before_reset").i = 0
    (carried,) = [p.value for p in model.metadata_props if p.key == SPEC_KEY]
    with pytest.raises(NotRecurrent, match="resets before its product"):
        read_stack(Graph.read(model.SerializeToString()), ModelSpec.from_json(carried))


def test_layers_that_are_misread_are_found_by_their_results(layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from statecell_server.runtimes import recurrent_step

    packed = recurrent_step.packed
    wrong: Callable[[object], tuple[Array, Array]] = lambda layer: (packed(layer)[0], packed(layer)[1] + 0.01)  # type: ignore[arg-type]  # noqa: E731
    monkeypatch.setattr("statecell_server.runtimes.recurrent_run.packed", wrong)
    with pytest.raises(NotRecurrent, match="results differ by"):
        RecurrentRuntime(path_of("lstm", layers))


@pytest.mark.parametrize("cut", [1, 7, 100, 2000])
def test_a_file_that_is_cut_off_is_a_value_error(layers: Path, cut: int) -> None:
    content = path_of("lstm", layers).read_bytes()
    with pytest.raises(ValueError, match=r".+"):
        Graph.read(content[:-cut])


def test_a_gpu_runs_another_model_in_onnx_runtime_and_getmodel_says_why(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both as they are on the CPU: what is tested is which of them is taken."""
    kernels: Callable[..., RecurrentRuntime] = lambda path, *_: RecurrentRuntime(path)  # noqa: E731
    in_onnx_runtime: Callable[..., DeviceRuntime] = lambda path, *_: DeviceRuntime(path)  # noqa: E731
    monkeypatch.setattr("statecell_server.runtimes.recurrent.RecurrentRuntime", kernels)
    monkeypatch.setattr("statecell_server.runtimes.onnx_device.DeviceRuntime", in_onnx_runtime)
    runtime = loading.load(others / "half" / "1", "onnxruntime", Device("cuda"), Config(models=others))
    assert isinstance(runtime, DeviceRuntime)
    assert runtime.note.endswith("runs in ONNX Runtime, for it has another dtype than float32")


async def test_in_the_engine_a_random_schedule_shows_the_same_bits_in_any_batch(
    layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.server.runtimes.test_device_arena.ROUNDS", 12)
    for name in ("lstm", "gru"):
        seen = []
        for kernel, max_batch in ((True, 16), (True, 2), (False, 16)):
            with monkeypatch.context() as patch:
                if kernel:
                    patch.setattr(loading, "_onnx", lambda path, device, config: RecurrentRuntime(path))  # noqa: ARG005
                engine = Engine(Config(models=layers, max_batch=max_batch, batch_variance="share"))
                assert isinstance(engine.models.get(name).runtime, RecurrentRuntime) == kernel
            await engine.start()
            seen.append(await play(engine, name))
            await engine.stop()
        assert all(np.array_equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
        for a, b in zip(seen[0], seen[2], strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_run_of_many_steps_is_what_onnx_runtime_gives(layers: Path) -> None:
    for name in LAYERS:
        runtime = RecurrentRuntime(path_of(name, layers))
        session = ort.InferenceSession(path_of(name, layers), providers=["CPUExecutionProvider"])
        rng, spec = np.random.default_rng(0), runtime.spec
        arena = runtime.arena(1 << 20, 8)
        states = [rng.standard_normal(s.sized(batch=3)).astype(np.float32) for s in spec.states]
        plan = runtime.plan(40, 3)
        plan.inputs[0][...] = rng.standard_normal(plan.inputs[0].shape)
        slots = arena.allocate(6)
        arena.write(slots[:3], states)
        wanted = session.run(None, {"x": plan.inputs[0], **{s.input: a for s, a in zip(spec.states, states, strict=True)}})
        for _ in range(2):  # the second time as it was recorded
            arena.run(plan, slots[:3], slots[3:])
            for got, expected in zip([plan.outputs[0], *arena.read(slots[3:])], wanted, strict=True):
                np.testing.assert_allclose(got, expected, atol=2e-5)
