"""Run by tests/outside/test_libraries.py in an environment that has the library: exports its models, and steps both.

    python library_program.py LIBRARY FOLDER

Prints a line of JSON for each model: its name, the largest difference between what is served and what the library's own module
gives, called as its user calls it; the seconds that the export took; and what the exporter asked for before, if it did.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from statecell_export import ExportError, Report, adopt, export
from torch import Tensor, nn

STEPS = 9
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Case:
    """A model of a library. make_report: exports it into a folder. feeds: what its calls are given. want: what the library's
    own module gives for them. first: what its user types at first, where the exporter asks for more than that.
    """

    name: str
    make_report: Callable[[Path], Report]
    feeds: list[Arrays]
    want: list[list[Any]]
    first: Callable[[Path], Report] | None = None
    batch: int = 2


def exported(module: nn.Module, example: Any, **options: Any) -> Callable[[Path], Report]:
    return lambda out: export(module, example, name="m", out=out, **options)


def sb3_contrib() -> Iterator[Case]:
    """The policy of RecurrentPPO: discrete and continuous actions, critics of their own and shared."""
    import gymnasium
    from sb3_contrib.common.recurrent.type_aliases import RNNStates
    from sb3_contrib.ppo_recurrent.policies import RecurrentActorCriticPolicy

    spaces = gymnasium.spaces
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "discrete": (spaces.Discrete(3), {}),
        "continuous, shared": (spaces.Box(-1, 1, (2,)), {"shared_lstm": True, "enable_critic_lstm": False}),
    }

    def states(batch: int) -> Any:
        return RNNStates(*((torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)) for _ in range(2)))

    for name, (actions, options) in kinds.items():
        policy = RecurrentActorCriticPolicy(
            spaces.Box(-1, 1, (4,)), actions, lambda _: 1e-3, lstm_hidden_size=8, **options
        ).eval()
        example = torch.randn(3, 4), states(3), torch.zeros(3), True
        xs, state, want = torch.randn(STEPS, 2, 4), states(2), []
        for x in xs:
            *results, state = policy(x, state, torch.zeros(2), deterministic=True)
            want.append(results)
        yield Case(
            f"RecurrentPPO's policy, {name}",
            exported(policy, example, constants={"episode_starts": 0}),
            [{"obs": x.numpy()} for x in xs],
            want,
            first=exported(policy, example),
        )


def torchrl() -> Iterator[Case]:
    """LSTMModule, one step a call, with its flags that begin an episode."""
    from tensordict import TensorDict
    from torchrl.modules import LSTMModule

    module = LSTMModule(input_size=4, hidden_size=8, in_key="obs", out_key="y").eval()
    keys = "recurrent_state_h", "recurrent_state_c"
    example = {"obs": torch.randn(3, 4), **{key: torch.zeros(3, 1, 8) for key in keys}, "is_init": torch.zeros(3, 1).bool()}
    feeds, want = [], []
    data = TensorDict({key: torch.zeros(2, 1, 8) for key in keys}, batch_size=[2])
    for step in range(STEPS):
        x, begins = torch.randn(2, 4), torch.tensor([[step == 0], [step in (0, 5)]])
        data["obs"], data["is_init"] = x, begins
        data = module(data)
        want.append([data["y"].clone()])
        for key in keys:
            data[key] = data["next", key]
        feeds.append({"obs": x.numpy(), "is_init": begins.numpy()})
    yield Case("LSTMModule", exported(module, example), feeds, want)


def lightning() -> Iterator[Case]:
    """A LightningModule around nn.LSTM, its state hidden and given."""
    from pytorch_lightning import LightningModule

    class Tagger(LightningModule):  # type: ignore[misc]
        def __init__(self, hidden: int = 8) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.lstm, self.head = nn.LSTM(4, hidden, 2, batch_first=True), nn.Linear(hidden, 3)

        def forward(self, x: Tensor, state: Any = None) -> Any:
            y, state = self.lstm(x, state)
            return self.head(y), state

        def training_step(self, batch: Any) -> Any:
            return self(batch)[0].square().mean()

    class Hidden(Tagger):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return self.head(self.lstm(x)[0])

    for kind in (Tagger, Hidden):
        module = kind().eval()
        xs, state, want = torch.randn(STEPS, 2, 1, 4), None, []
        for x in xs:
            y, state = Tagger.forward(module, x, state)
            want.append([y])
        yield Case(kind.__name__, exported(module, torch.randn(3, 5, 4)), [{"x": x.numpy()} for x in xs], want)


def ncps() -> Iterator[Case]:
    """Closed-form and liquid time-constant networks."""
    from ncps.torch import LTC, CfC
    from ncps.wirings import AutoNCP

    kinds = {
        "CfC": CfC(4, 8),
        "CfC, wired": CfC(4, AutoNCP(10, 3)),
        "CfC, mixed memory": CfC(4, 8, mixed_memory=True, proj_size=3),
        "LTC": LTC(4, AutoNCP(10, 3)),
        "LTC, mixed memory": LTC(4, 8, mixed_memory=True),
    }
    for name, module in kinds.items():
        module.eval()

        def states(batch: int, module: Any = module) -> Any:
            zeros = torch.zeros(batch, module.state_size)
            return (zeros, torch.zeros_like(zeros)) if module.use_mixed else zeros

        xs, state, want = torch.randn(STEPS, 2, 1, 4), states(2), []
        for x in xs:
            y, state = module(x, state)
            want.append([y])
        yield Case(
            name,
            exported(module, (torch.randn(3, 5, 4), states(3))),
            [{"input": x.numpy()} for x in xs],
            want,
            first=exported(module, torch.randn(3, 5, 4)),
        )


def torchaudio() -> Iterator[Case]:
    """The RNN-T's prediction network, one symbol a call and several."""
    from torchaudio.models.rnnt import _Predictor

    module = _Predictor(20, 5, 6, 2, 8, lstm_layer_norm=True, lstm_layer_norm_epsilon=1e-3).eval()
    for length in (1, 5):
        states = [[torch.zeros(3, 8), torch.zeros(3, 8)] for _ in range(2)]
        example = torch.randint(0, 20, (3, length)), torch.full((3,), length, dtype=torch.int32), states
        xs, lengths, state, want = torch.randint(0, 20, (STEPS, 2, 1)), torch.ones(2, dtype=torch.int32), None, []
        for x in xs:
            y, _, state = module(x, lengths, state)
            want.append([y])
        feeds = [{"input": x.numpy(), "lengths": lengths.numpy()} for x in xs]
        yield Case(f"RNN-T predictor, {length} at once", exported(module, example), feeds, want)


def silero_vad() -> Iterator[Case]:
    """Its own ONNX files; the one of a sequence has frames for a time axis."""
    folder = resources.files("silero_vad") / "data"
    for file in ("silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_16k_sequence.onnx"):
        path = Path(str(folder / file))
        itself = onnxruntime.InferenceSession(str(path))
        rng = np.random.default_rng(3)
        feeds: list[Arrays] = []
        want: list[list[Any]] = []
        if "sequence" in file:
            states = [np.zeros((1, 1, 128), np.float32)] * 2
            for _ in range(STEPS):
                x = (0.1 * rng.standard_normal((1, 576))).astype(np.float32)
                y, *states = itself.run(None, {"input": x, "h": states[0], "c": states[1]})
                feeds.append({"input": x})
                want.append([y])
            yield Case(file, lambda out, path=path: adopt(path, name="m", out=out), feeds, want, batch=1)  # type: ignore[misc]
            continue
        state = np.zeros((2, 2, 128), np.float32)
        for _ in range(STEPS):
            x = (0.1 * rng.standard_normal((2, 576))).astype(np.float32)
            y, state = itself.run(["output", "stateN"], {"input": x, "state": state, "sr": np.array(16000)})
            feeds.append({"input": x})
            want.append([y])

        def said(out: Path, path: Path = path) -> Report:
            return adopt(path, name="m", out=out, constants={"sr": "16000"}, example=["input:float32[batch,576]"])

        yield Case(file, said, feeds, want, first=lambda out, path=path: adopt(path, name="m", out=out))  # type: ignore[misc]


def served(report: Report, feeds: list[Arrays], batch: int) -> list[list[Any]]:
    """The outputs of each call, the states carried on by the names of the spec."""
    session = onnxruntime.InferenceSession(str(report.path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    states, results = {s.input: s.fresh(batch) for s in report.spec.states}, []
    for feed in feeds:
        got = dict(zip(names, session.run(names, {**feed, **states}), strict=True))
        states = {s.input: got[s.output] for s in report.spec.states}
        results.append([got[output.name] for output in report.spec.outputs])
    return results


def main(library: str, folder: Path) -> None:
    torch.manual_seed(4)
    torch.set_num_threads(1)
    with torch.no_grad():
        for number, case in enumerate(globals()[library]()):
            asked = ""
            if case.first is not None:
                try:
                    case.first(folder / f"{number}-first")
                except ExportError as error:
                    asked = str(error)
            began = time.perf_counter()
            report = case.make_report(folder / str(number))
            seconds = time.perf_counter() - began
            off = max(
                float(np.abs(np.asarray(theirs, np.float64) - mine).max())
                for got, want in zip(served(report, case.feeds, case.batch), case.want, strict=True)
                for mine, theirs in zip(got, want, strict=False)
            )
            said = {"model": case.name, "error": off, "seconds": round(seconds, 2), "asked": asked}
            print(json.dumps(said | {"streamable": report.spec.streamable, "files": sorted(report.artifacts)}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], Path(sys.argv[2]))
