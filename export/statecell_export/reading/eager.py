"""Eager: a module as its author wrote it, out of what torch.compile, torch.jit and training made of it."""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from statecell_export.errors import ModuleRefusedError


def check_eager(module: nn.Module) -> None:
    """Raises ModuleRefusedError where it is, or holds, what has no Python of its own any more."""
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            what = f"submodule {path!r}" if path else "the module"
            raise ModuleRefusedError(
                f"{what} is TorchScript ({child.original_name}), whose code cannot be read again; export the module that was "
                "scripted or traced, with its weights: module.load_state_dict(scripted.state_dict())"
            )


def check_finite(module: nn.Module) -> None:
    """Raises ModuleRefusedError where a weight is NaN or infinite: nothing that such a module gives can be compared."""
    for path, parameter in module.named_parameters():
        if parameter.is_meta:
            raise ModuleRefusedError(f"parameter {path!r} has no values (it is on the meta device); load the weights first")
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise ModuleRefusedError(
                f"parameter {path!r} has values that are not finite: the training diverged; take weights from before that"
            )


def duplicate(module: nn.Module) -> nn.Module:
    """A deep copy, in which what was computed from other weights, as weight drop leaves it, is a tensor like any other."""
    known: dict[int, object] = {}
    for child in module.modules():
        for leaf in tree_leaves(list(vars(child).values())):
            if isinstance(leaf, torch.Tensor) and not leaf.is_leaf:
                known[id(leaf)] = leaf.detach().clone()
    return copy.deepcopy(module, known)


def uncompile(module: nn.Module) -> nn.Module:
    """`module`, changed to be without torch.compile, inside too."""
    module = module._modules.get("_orig_mod") or module
    module._compiled_call_impl = None
    for name, child in list(module.named_children()):
        module._modules[name] = uncompile(child)
    return module


def untie(module: nn.Module) -> None:
    """Gives each place of a shared weight its own copy: in eval mode they compute the same, and a trace knows no sharing."""
    seen: set[int] = set()
    for child in module.modules():
        for name, parameter in list(child._parameters.items()):
            if parameter is not None and id(parameter) in seen:
                setattr(child, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
            elif parameter is not None:
                seen.add(id(parameter))
