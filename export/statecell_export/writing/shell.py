"""Shell: a module's parameters under their names, without its class.

A tracer asks every attribute that a class defines for what it is, and some raise: those of a LightningModule without a trainer.
"""

from collections.abc import Callable
from typing import Any

from torch import nn


class Shell(nn.Module):
    """`module` as plain modules all the way down, which runs its forward."""

    def __init__(self, module: nn.Module, known: dict[int, "Shell"] | None = None) -> None:
        super().__init__()
        known = {} if known is None else known  # by id: a module that is in two places is one shell
        known[id(module)] = self
        self._parameters, self._buffers = module._parameters, module._buffers
        self._non_persistent_buffers_set = module._non_persistent_buffers_set
        for name, child in module._modules.items():
            if child is not None:
                self._modules[name] = known.get(id(child)) or Shell(child, known)
        self._call: tuple[Callable[..., Any]] = (module.forward,)  # in a tuple, where no tracer looks
        self.training = module.training

    def forward(self, *tensors: Any) -> Any:
        """What the module's own forward gives."""
        return self._call[0](*tensors)
