"""Assumptions: what a proof rests on, in sentences for whoever reads the report."""

from collections.abc import Sequence

import torch

from statecell_export.reading.example import Leaf
from statecell_export.reading.lift import COMPUTED, LIFTED
from statecell_export.reading.probe import Probe


def assumptions(found: Probe, drawn: Sequence[str]) -> tuple[str, ...]:
    """What was drawn for each input, and how each state was found. `drawn`: what the judge drew, in words."""
    said = [f"run with {'; '.join(drawn)}"] if drawn else []
    said += [f"input {leaf.name!r}: {_values(leaf)}" for leaf in found.leaves]
    said += [f"input {c.name!r}: always {c.value:g}, and no input of the model" for c in found.plan.constants]
    said += [f"state {name!r}: {found.evidence[name]}" for name, _ in found.plan.given]
    for chain in found.plan.chains:
        begins = {LIFTED: "begun with zeros", COMPUTED: "begun with what forward computes in a session's first call"}
        for name in chain.names:
            said.append(f"state {name!r}: that of {repr(chain.path) if chain.path else 'the module'}, {begins[chain.begins]}")
    return tuple(said)


def _values(leaf: Leaf) -> str:
    if leaf.lengths:
        return "lengths from 1 to seq_len"
    if leaf.value.dtype == torch.bool:
        return "true and false"
    if leaf.range is not None:
        return f"from {leaf.range[0]:g} to {leaf.range[1]:g}"
    if leaf.only_shape:
        return "normally distributed, for the example tells no more than its shape"
    if leaf.value.is_floating_point():
        return f"like the example's, which are from {leaf.value.min():g} to {leaf.value.max():g}"
    return f"whole numbers of the example, from {leaf.value.min()} to {leaf.value.max()}"
