"""Why a model cannot be stepped."""

from statecell.spec import ModelSpec
from torch import nn

_ACROSS_TIME = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.MultiheadAttention, nn.AvgPool1d, nn.MaxPool1d)


def why_not(module: nn.Module, spec: ModelSpec, difference: str) -> str:
    """The reason, "" where the model can be stepped.

    difference: what running in chunks with the state carried on changed, "" for nothing.
    """
    if not spec.has_time:
        return ""
    for path, child in module.named_modules():
        if isinstance(child, nn.RNNBase) and child.bidirectional:
            return f"{path or type(child).__name__} is bidirectional: its reverse direction begins at the end of the sequence"
    for output in spec.outputs:
        if output.time_axis is None:
            return f"output {output.name!r} has no time axis: it is one value for a whole sequence, such as a head on the last step"
    if not difference:
        return ""
    suspects = [path for path, child in module.named_modules() if isinstance(child, _ACROSS_TIME)]
    cause = f"{', '.join(suspects)} may look across time steps" if suspects else "forward looks across time steps"
    return f"{difference}: {cause}"
