"""The ways to make an LSTM step that bench/cuda.py compares, and the one in float64 that it checks them by."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
import torch
from statecell.tensor import Array
from statecell_server.device import Device
from statecell_server.runtimes.device_memory import DeviceMemory
from statecell_server.runtimes.onnx import OnnxRuntime
from statecell_server.runtimes.ort_session import cuda_options
from statecell_server.runtimes.stream import stream
from torch import nn


class Form(Protocol):
    """One way to make a step of `batch` rows. It keeps the states of these rows itself; they begin at zero."""

    def step(self, x: Array) -> Array:
        """x [1, batch, input_size] from the host -> y [1, batch, hidden_size] on the host, good until the next step."""


class ArenaStep:
    """A step as the server makes it, with the arena on the host or on the device."""

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
    """The model as a CUDA graph: every buffer fixed on the device, x copied into its own, the next states over the states.

    Safe for one size of a run only: a captured copy goes on reading memory that other runs of the session may use meanwhile.
    """

    def __init__(self, path: Path, device: Device, batch: int) -> None:
        self._device = device
        options = cuda_options(device, 0) | {"enable_cuda_graph": "1"}
        providers = [("CUDAExecutionProvider", options)] if device.kind == "cuda" else []
        plain = ort.SessionOptions()
        plain.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, plain, providers=[*providers, "CPUExecutionProvider"], enable_fallback=0)
        self._binding = self._session.io_binding()
        spec = OnnxRuntime(path).spec
        self._pairs = []
        for state in spec.states:
            before, after = (DeviceMemory(device, state.fresh(batch).nbytes) for _ in range(2))
            fresh = self._value(state.fresh(batch))
            self._pairs.append((before, after, fresh))
            kind = (device.kind, device.index, np.dtype(state.dtype).type, state.sized(batch=batch))
            self._binding.bind_input(state.input, *kind, before.address)
            self._binding.bind_output(state.output, *kind, after.address)
        sizes = [int(t.shape[-1]) for t in (spec.inputs[0], spec.outputs[0])]
        self._x = self._value(np.zeros((1, batch, sizes[0]), np.float32))
        self._y = self._value(np.zeros((1, batch, sizes[1]), np.float32))
        self._binding.bind_ortvalue_input("x", self._x)
        self._binding.bind_ortvalue_output("y", self._y)
        self._session.run_with_iobinding(self._binding)  # captures, from whatever the states are
        self._stream = stream(device)
        for before, _, fresh in self._pairs:
            self._stream.copy(before.address, fresh.data_ptr(), before.size)
        self._stream.wait()

    def _value(self, array: Array) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device.kind, self._device.index)

    def step(self, x: Array) -> Array:
        self._x.update_inplace(x)
        self._session.run_with_iobinding(self._binding)
        for before, after, _ in self._pairs:
            self._stream.copy(before.address, after.address, before.size)
        self._stream.wait()
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
