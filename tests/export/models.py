"""Recurrent modules as people write them who do not use nn.LSTM: models that no library ships in a size for tests."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

States = tuple[Tensor, ...]


class SLSTM(nn.Module):
    """One step of an sLSTM: exponential gates, with a normalizer n and a stabilizer m (Beck et al. 2024)."""

    def __init__(self, inputs: int = 4, hidden: int = 8) -> None:
        super().__init__()
        self.w, self.r, self.head = (
            nn.Linear(inputs, 4 * hidden),
            nn.Linear(hidden, 4 * hidden, bias=False),
            nn.Linear(hidden, 3),
        )

    def step(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> States:
        i, f, z, o = (self.w(x) + self.r(h)).chunk(4, -1)
        forget = m + functional.logsigmoid(f)
        larger = torch.where(n == 0, i, torch.maximum(i, forget))
        i, f = torch.exp(i - larger), torch.exp(forget - larger)
        c, n = f * c + i * torch.tanh(z), f * n + i
        return torch.sigmoid(o) * c / n, c, n, larger

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        state = self.step(x, *state)
        return self.head(state[0]), state


class SLSTMInPlace(SLSTM):
    """Its state is overwritten, and not returned."""

    def forward(self, x: Tensor, state: States) -> Tensor:  # type: ignore[override]
        for old, new in zip(state, self.step(x, *state), strict=True):
            old.copy_(new)
        y: Tensor = self.head(state[0])
        return y


class MinGRU(nn.Module):
    """A minGRU (Feng et al. 2024): in parallel over a sequence in log space, in a simpler way for one step."""

    def __init__(self, size: int = 6, hidden: int = 9) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(size, 2 * hidden, bias=False), nn.Linear(hidden, size, bias=False)

    def forward(self, x: Tensor, prev_hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, gate = self.both(x).chunk(2, dim=-1)
        if x.size(1) == 1:
            hidden = torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
            y = hidden * gate.sigmoid() if prev_hidden is None else torch.lerp(prev_hidden, hidden, gate.sigmoid())
        else:
            values = torch.where(
                hidden >= 0, (functional.relu(hidden) + 0.5).log(), -functional.softplus(-hidden)
            ) - functional.softplus(-gate)
            keeps = -functional.softplus(gate)
            if prev_hidden is not None:
                values, keeps = torch.cat([prev_hidden.log(), values], 1), functional.pad(keeps, (0, 0, 1, 0))
            total = keeps.cumsum(1)
            y = (total + (values - total).logcumsumexp(1)).exp()[:, -x.size(1) :]
        return self.out(y), y[:, -1:]


class MinGRUStep(nn.Module):
    """One step; its output is its state."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.hidden = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor, h_prev: Tensor) -> tuple[Tensor, Tensor]:
        z, hidden = self.gate(x).sigmoid(), self.hidden(x)
        h = (1 - z) * h_prev + z * torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
        return h, h


class Mamba(nn.Module):
    """One step of a Mamba block (Gu and Dao 2023): a convolution's cache and a state space's, both new in each call."""

    def __init__(self, size: int = 6, states: int = 4, width: int = 4) -> None:
        super().__init__()
        inner = 2 * size
        self.states, self.in_proj = states, nn.Linear(size, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, width, groups=inner)
        self.x_proj, self.dt_proj = nn.Linear(inner, 1 + 2 * states, bias=False), nn.Linear(1, inner)
        self.a_log = nn.Parameter(torch.log(torch.arange(1, states + 1).float().repeat(inner, 1)))
        self.d, self.out_proj = nn.Parameter(torch.ones(inner)), nn.Linear(inner, size, bias=False)

    def convolved(self, cache: Tensor) -> Tensor:
        assert self.conv.bias is not None
        return functional.silu((cache * self.conv.weight.squeeze(1)).sum(-1) + self.conv.bias)

    def scanned(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The next state, and how it is read."""
        dt, b, c = self.x_proj(x).split([1, self.states, self.states], -1)
        dt = functional.softplus(self.dt_proj(dt))
        kept = state * torch.exp(torch.einsum("bd,dn->bdn", dt, -self.a_log.exp()))
        return kept + x.unsqueeze(-1) * torch.einsum("bd,bn->bdn", dt, b), c

    def out(self, x: Tensor, z: Tensor, state: Tensor, c: Tensor) -> Tensor:
        y: Tensor = self.out_proj((torch.einsum("bdn,bn->bd", state, c) + self.d * x) * functional.silu(z)).unsqueeze(1)
        return y

    def forward(self, hidden: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, z = self.in_proj(hidden.squeeze(1)).chunk(2, -1)
        conv_state = torch.cat([conv_state[:, :, 1:], x.unsqueeze(-1)], -1)
        x = self.convolved(conv_state)
        ssm_state, c = self.scanned(x, ssm_state)
        return self.out(x, z, ssm_state, c), conv_state, ssm_state


class MambaInPlace(Mamba):
    """As a decoder's step has it: both caches are written into, and returned as well."""

    def forward(self, hidden: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, z = self.in_proj(hidden.squeeze(1)).chunk(2, -1)
        conv_state.copy_(torch.roll(conv_state, shifts=-1, dims=-1))
        conv_state[:, :, -1] = x
        x = self.convolved(conv_state)
        new, c = self.scanned(x, ssm_state)
        ssm_state.copy_(new)
        return self.out(x, z, ssm_state, c), conv_state, ssm_state


class MambaCache(MambaInPlace):
    """Its caches are in one dict, into which it writes."""

    def forward(self, hidden: Tensor, cache: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(hidden, cache["conv"], cache["ssm"])[0]


class Dropped(nn.Module):
    """A layer whose recurrent weights are dropped in training, and set anew in each call."""

    def __init__(self, inner: nn.LSTM) -> None:
        super().__init__()
        self.inner, weight = inner, inner.get_parameter("weight_hh_l0")
        del inner._parameters["weight_hh_l0"]
        self.raw = nn.Parameter(weight.data)
        setattr(inner, "weight_hh_l0", weight.clone())  # noqa: B010

    def forward(self, x: Tensor, state: States) -> tuple[Tensor, States]:
        setattr(self.inner, "weight_hh_l0", functional.dropout(self.raw, 0.5) if self.training else self.raw.clone())  # noqa: B010
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result: tuple[Tensor, States] = self.inner(x, state)
        return result


class AWDLSTM(nn.Module):
    """A language model (Merity et al. 2017): dropped weights, hidden states in self, made anew where the batch is another."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.batch = [(6, 8), (8, 6)], 1
        self.encoder = nn.Embedding(20, 6)
        self.layers = nn.ModuleList([Dropped(nn.LSTM(*sizes, batch_first=True)) for sizes in self.sizes])
        self.decoder = nn.Linear(6, 20)
        self.reset()

    def reset(self) -> None:
        weight = self.encoder.weight
        self.hidden = [(weight.new_zeros(1, self.batch, n), weight.new_zeros(1, self.batch, n)) for _, n in self.sizes]

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.size(0) != self.batch:
            self.batch = tokens.size(0)
            self.reset()
        x, hidden = self.encoder(tokens), []
        for layer, state in zip(self.layers, self.hidden, strict=True):
            x, (h, c) = layer(x, state)
            hidden.append((h.detach(), c.detach()))
        self.hidden = hidden
        y: Tensor = self.decoder(x)
        return y


class Denoiser(nn.Module):
    """A mask for a spectrum [batch, seq_len, bins, 2]: a GRU over the bins of each frame, both ways, and one over time."""

    def __init__(self, bins: int = 9, channels: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.channels, self.hidden, self.encode = channels, hidden, nn.Linear(2, channels)
        self.intra = nn.GRU(channels, channels, batch_first=True, bidirectional=True)
        self.join, self.norm = nn.Linear(2 * channels, channels), nn.LayerNorm([bins, channels])
        self.inter, self.back = nn.GRU(channels, hidden, batch_first=True), nn.Linear(hidden, channels)
        self.decode = nn.Linear(channels, 2)

    def forward(self, spectrum: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, seq_len, bins, _ = spectrum.shape
        x = self.encode(spectrum)
        y, _ = self.intra(x.reshape(batch * seq_len, bins, self.channels))
        x = x + self.norm(self.join(y).reshape(batch, seq_len, bins, self.channels))
        y, h = self.inter(x.transpose(1, 2).reshape(batch * bins, seq_len, self.channels), h)
        x = x + self.back(y).reshape(batch, bins, seq_len, self.channels).transpose(1, 2)
        return spectrum * torch.sigmoid(self.decode(x)), h


class DenoiserByRow(Denoiser):
    """Its state is [batch, bins, hidden]."""

    def forward(self, spectrum: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y, after = super().forward(spectrum, h.reshape(1, -1, self.hidden))
        return y, after.reshape(h.shape)


class HiddenDenoiser(Denoiser):
    """Its state is made of zeros and thrown away."""

    def forward(self, spectrum: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(spectrum, None)[0]


class FSMN(nn.Module):
    """A feedforward sequential memory network (Zhang et al. 2015): convolutions over time, and caches of their last frames."""

    def __init__(self, order: int = 4) -> None:
        super().__init__()
        self.order, self.first, self.last = order, nn.Linear(5, 6), nn.Linear(6, 3)
        self.projections = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.memories = nn.ModuleList([nn.Conv1d(6, 6, order, groups=6, bias=False) for _ in range(2)])

    def forward(self, feats: Tensor, in_cache0: Tensor, in_cache1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, caches = torch.relu(self.first(feats)), []
        for projection, memory, cache in zip(self.projections, self.memories, (in_cache0, in_cache1), strict=True):
            x = projection(x).transpose(1, 2)
            joined = torch.cat([cache, x], 2)
            caches.append(joined[:, :, -(self.order - 1) :])
            x = torch.relu(x + memory(joined)).transpose(1, 2)
        return torch.softmax(self.last(x), -1), caches[0], caches[1]


class FSMNOfDict(FSMN):
    """Takes a dict that it fills."""

    def forward(self, feats: Tensor, cache: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        y, cache["0"], cache["1"] = super().forward(feats, cache["0"], cache["1"])
        return y


class FSMNOfSelf(FSMN):
    """Keeps its caches."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def forward(self, feats: Tensor) -> Tensor:  # type: ignore[override]
        zeros = feats.new_zeros(feats.size(0), 6, self.order - 1)
        y, a, b = super().forward(feats, self.cache.get("0", zeros), self.cache.get("1", zeros))
        self.cache = {"0": a, "1": b}
        return y
