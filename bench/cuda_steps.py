"""The ways to make an LSTM step that bench/cuda.py compares, and the one in float64 that it checks them by."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
import torch
from statecell.tensor import Array
from statecell_server.device import Device
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.ort_session import cuda_options
from statecell_server.runtimes.state_graph import arena, arena_shape, indices, lead, next_arena, with_arena
from torch import nn


class Form(Protocol):
    """One way to make a step of `batch` rows. It keeps the states of these rows itself; they begin at zero."""

    def step(self, x: Array) -> Array:
        """x [1, batch, input_size] from the host -> y [1, batch, hidden_size] on the host, good until the next step."""


class ArenaStep:
    """A step as the server makes it, with the arena on the host or in the graph."""

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        row_bytes = sum(s.fresh().nbytes for s in runtime.spec.states)
        self._arena = runtime.arena(row_bytes * 2 * batch, batch)
        slots = self._arena.allocate(2 * batch)
        self._arena.reserve(self._arena.capacity)
        # Slots all over the arena, as after hours of coming and going.
        slots = np.random.default_rng(0).permutation(slots).tolist()
        self._sources, self._targets = slots[:batch], slots[batch:]
        self._arena.write(self._sources, [s.fresh(batch) for s in runtime.spec.states])
        self._plan = runtime.plan(1, batch)

    def step(self, x: Array) -> Array:
        np.copyto(self._plan.inputs[0], x)
        self._arena.run(self._plan, self._sources, self._targets)
        self._sources, self._targets = self._targets, self._sources
        return self._plan.outputs[0]


class CapturedStep:
    """The graph with its arena as a CUDA graph: every buffer fixed on the device, x and the rows copied into theirs."""

    def __init__(self, path: Path, device: Device, batch: int) -> None:
        """For an LSTM: both its states have the same rows."""
        self._device = device
        content, options = with_arena(path.read_bytes(), path), cuda_options(device, 0) | {"enable_cuda_graph": "1"}
        providers = [("CUDAExecutionProvider", options)] if device.kind == "cuda" else []
        plain = ort.SessionOptions()
        plain.intra_op_num_threads = 1
        self._session = ort.InferenceSession(content, plain, providers=[*providers, "CPUExecutionProvider"], enable_fallback=0)
        self._binding = self._session.io_binding()
        states = OnnxRuntime(path).spec.states
        for state in states:
            value = self._input(arena(state), np.zeros(arena_shape(state, 2 * batch), state.dtype))
            self._binding.bind_ortvalue_output(next_arena(state), value)
        slots = np.random.default_rng(0).permutation(2 * batch)
        layers = np.arange(*lead(states[0]))[:, None]
        rows = slots * layers.size + layers  # [layers, 2 * batch]
        self._rows = [np.ascontiguousarray(rows[:, :batch]), np.ascontiguousarray(rows[:, batch:])]
        ((read, written),) = indices(states)
        self._read = self._input(read.name, self._rows[0].copy())
        self._written = self._input(written.name, self._rows[1][..., None].copy())
        sizes = [self._session.get_inputs()[0].shape[-1], self._session.get_outputs()[0].shape[-1]]
        self._x = self._input("x", np.zeros((1, batch, sizes[0]), np.float32))
        self._y = self._value(np.zeros((1, batch, sizes[1]), np.float32))
        self._binding.bind_ortvalue_output("y", self._y)

    def _value(self, array: Array) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)

    def _input(self, name: str, array: Array) -> Any:
        value = self._value(array)
        self._binding.bind_ortvalue_input(name, value)
        return value

    def step(self, x: Array) -> Array:
        self._x.update_inplace(x)
        self._read.update_inplace(self._rows[0])
        self._written.update_inplace(self._rows[1][..., None])
        self._session.run_with_iobinding(self._binding)
        self._rows.reverse()
        return np.asarray(self._y.numpy())


class TorchStep:
    """torch.nn.LSTM, whose kernels on a GPU are cuDNN's; the states stay in its tensors."""

    def __init__(self, module: nn.LSTM, device: Device, batch: int) -> None:
        if device.kind == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"the torch that is installed ({torch.__version__}) finds no GPU")
        self._device = torch.device(str(device))
        self._module = nn.LSTM(module.input_size, module.hidden_size, module.num_layers)
        self._module.load_state_dict(module.state_dict())
        self._module.eval().to(self._device)
        zeros = torch.zeros(module.num_layers, batch, module.hidden_size, device=self._device)
        self._state = (zeros, zeros)

    @torch.inference_mode()
    def step(self, x: Array) -> Array:
        y, self._state = self._module(torch.from_numpy(x).to(self._device), self._state)
        return y.cpu().numpy()  # type: ignore[no-any-return]


def reference(module: nn.LSTM, x: Array) -> Array:
    """nn.LSTM in float64, from zeros: the equations of https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html"""
    weights = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    y = x.astype(np.float64)  # [seq_len, batch, input_size]
    for layer in range(module.num_layers):
        w_ih, w_hh, b_ih, b_hh = (weights[f"{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = np.zeros((x.shape[1], module.hidden_size))
        outputs = []
        for x_t in y:
            i, f, g, o = np.split(x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=1)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            outputs.append(h)
        y = np.stack(outputs)
    return y
