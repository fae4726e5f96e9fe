"""Why a model cannot be stepped."""

from collections.abc import Callable

from statecell.spec import ModelSpec
from torch import nn

from statecell_export.errors import ModuleRefusedError
from statecell_export.reading.lift import OWN
from statecell_export.reading.probe import Probe

_ACROSS_TIME = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.MultiheadAttention, nn.AvgPool1d, nn.MaxPool1d)


def why_not(module: nn.Module, found: Probe, difference: Callable[[], str]) -> str:
    """The reason, "" where the model can be stepped.

    difference: says what running in chunks with the state carried on changes, "" for nothing.
    """
    spec = found.spec
    if not spec.has_time:
        return ""
    if found.packed:
        return "it packs its sequences by the lengths of whole sequences; export it without lengths to step it"
    inner = {chain.path for chain in found.plan.chains if chain.begins == OWN}
    for path, child in module.named_modules():
        if isinstance(child, nn.RNNBase) and child.bidirectional and path not in inner:
            return f"{path or type(child).__name__} is bidirectional: its reverse direction begins at the end of the sequence"
    for output in spec.outputs:
        if output.time_axis is None and output.name not in found.steady:
            one = "it is one for a whole sequence, as of a head on the last step; return one for each step"
            return f"output {output.name!r} has no time axis: {one}"
    changed = difference()
    if not changed:
        return ""
    suspects = [path for path, child in module.named_modules() if isinstance(child, _ACROSS_TIME)]
    cause = f"{', '.join(suspects)} may look across time steps" if suspects else "forward looks across time steps"
    return f"{changed}: {cause}"


def min_batch(module: nn.Module, spec: ModelSpec) -> int:
    """How many rows a call needs: ONNX Runtime's RNN node computes a single row in another way than several (7e-7 apart)."""
    return 2 if spec.has_batch and any(isinstance(child, nn.RNN | nn.RNNCell) for child in module.modules()) else 1


def only_a_loop(module: nn.Module, found: Probe, reason: str) -> ModuleRefusedError:
    """The refusal of a loop that no recipe can keep."""
    cells = ", ".join(repr(chain.path) for chain in found.plan.chains)
    return ModuleRefusedError(
        f"{type(module).__name__}.forward loops over time with {cells}, which is exported by its single step, but {reason}; "
        "move what follows the loop out of forward, use nn.LSTM or nn.GRU in place of the loop, or take the state as an "
        "argument and return it, so that the module can be scripted"
    )
