"""Mixing of positions by structured matrices, and the blocks around it: hydra_ssm.py tells what they are for.

A mixer is y = M x per head, M (T, T) made from features of the input: `Mixer.matrix` is the dense M, which
defines the result. What has a linear-time path (quasiseparable and semiseparable matrices) overrides
`forward` by it. Shapes: x (..., T, H, P), features (..., T, channels); leading axes are sequences, or
members and sequences.

Definitions as in goombalab/hydra, whose data-dependent mixers these are; but the diagonal term
x (x W_D + D), there of quasiseparable mixers only (others add x), is of the block here and the same for all.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.models import parts
from precisionlaws.models.hydra_ssm import CHUNK, Dims
from precisionlaws.models.parts import Drawn, Embedding, Linear, Part, RMSNorm, Seam, spread, unset

Reading = tuple[Tensor, Tensor, Tensor, Tensor]  # dt, log decays, B, C
DT = (1e-3, 0.1)  # steps at the start, log-uniform between these


class Mixer(nn.Module):
    """activated: whether its features pass the activation that x passes."""

    activated = True

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        """M (..., H, T, T)"""
        raise NotImplementedError

    def forward(self, x: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        return (self.matrix(features, raw) @ x.transpose(-3, -2)).transpose(-3, -2)


class Attention(Mixer):
    """softmax(q·k / √N) over all positions"""

    activated = False

    def __init__(self, heads: int, state: int) -> None:
        super().__init__()
        self.shape = (2, heads, state)

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        q, k = halves(features, self.shape)
        return (q @ k.mT / math.sqrt(self.shape[-1])).softmax(-1)


class Vandermonde(Mixer):
    """M_ts = (2TN)^-½ Σ_n cos(2π ε q_tn s) - cos(2π ε k_sn t): rows are powers of points on the circle."""

    activated = False
    EPS = 1e-3  # small turns, for stability

    def __init__(self, heads: int, state: int) -> None:
        super().__init__()
        self.shape = (2, heads, state)

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        q, k = halves(features, self.shape)  # (..., H, T, N)
        T, N = q.shape[-2:]
        place = 2 * math.pi * self.EPS * torch.arange(T, device=q.device, dtype=q.dtype)
        of_q = (q.unsqueeze(-2) * place.view(T, 1)).cos().sum(-1)  # (..., H, t, s)
        of_k = (k.unsqueeze(-2) * place.view(T, 1)).cos().sum(-1)  # (..., H, s, t)
        return (of_q - of_k.mT) / math.sqrt(2 * T * N)


class Toeplitz(Mixer):
    """M_ts = f_{t-s} / 2√T from the features at position |t - s|: one to the left, one to the right."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.shape = (2, heads, 1)

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        left, right = (f.squeeze(-1) for f in halves(features, self.shape))  # (..., H, T)
        T = left.shape[-1]
        lag = torch.arange(T, device=left.device)
        lag = lag.view(T, 1) - lag  # t - s
        values = torch.cat((right[..., 1:].flip(-1), left), -1)  # of lags -(T - 1) ... T - 1
        return values[..., lag + T - 1] * (0.5 / math.sqrt(T))


def halves(features: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """(..., T, 2·H·N) -> two (..., H, T, N)"""
    one, two = features.unflatten(-1, shape).unbind(-3)
    return one.transpose(-3, -2), two.transpose(-3, -2)


class Scan(Part):
    """Step sizes and decays of scans, per head: dt = softplus(raw + dt_bias), log decay = -dt exp(A_log)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.dt_bias, self.A_log = unset(heads), unset(heads)

    def start(self, leaf: str, shape: torch.Size, seed: int, name: str) -> Tensor:
        if leaf == "A_log":
            return torch.zeros(shape)
        low, high = map(math.log, DT)
        share = torch.special.ndtr(parts.normal(seed, name, shape))
        dt = (low + (high - low) * share).exp()
        return dt + (-torch.expm1(-dt)).log()  # softplus of it is dt

    def forward(self, raw: Tensor, axes: int) -> tuple[Tensor, Tensor]:
        """axes: of the features, less those that were added in front."""
        dt = F.softplus(raw + spread(self.dt_bias, axes))
        return dt, -dt * spread(self.A_log, axes).exp()


class Semiseparable(Mixer):
    """M_ts = C_t·B_s dt_s exp(Σ_{s<k≤t} log decay_k) for s ≤ t: Mamba-2's scan (arXiv:2405.21060), causal."""

    def __init__(self, heads: int, state: int, groups: int) -> None:
        super().__init__()
        self.scan, self.shape = Scan(heads), (2, groups, state)

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        return semiseparable(*self.read(features, raw))

    def forward(self, x: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        return scan(x, *self.read(features, raw))

    def read(self, features: Tensor, raw: Tensor) -> Reading:
        B, C = features.unflatten(-1, self.shape).unbind(-3)
        return *self.scan(raw, raw.dim()), B, C


class Quasiseparable(Mixer):
    """A scan from each side, shifted by one so that the diagonal is left out."""

    def __init__(self, heads: int, state: int, groups: int) -> None:
        super().__init__()
        self.scan, self.heads, self.shape = Scan(heads), heads, (2, 2, groups, state)

    def ways(self, features: Tensor, raw: Tensor) -> Reading:
        """(2, ..., T, ...), index 1 reads from the end."""
        fore, back = features.unflatten(-1, self.shape).unbind(-4)  # (..., T, 2, G, N)
        steps = torch.stack((raw[..., : self.heads], raw[..., self.heads :].flip(-2)))
        B, C = torch.stack((fore, back.flip(-4))).unbind(-3)
        return *self.scan(steps, raw.dim()), B, C

    def matrix(self, features: Tensor, raw: Tensor) -> Tensor:
        M = F.pad(semiseparable(*self.ways(features, raw))[..., :-1, :], (0, 0, 1, 0))
        return M[0] + M[1].flip(-1, -2)

    def forward(self, x: Tensor, features: Tensor, raw: Tensor) -> Tensor:
        y = scan(torch.stack((x, x.flip(-3))), *self.ways(features, raw))
        y = F.pad(y[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
        return y[0] + y[1].flip(-3)


def semiseparable(dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Dense; dt, log_decay (..., T, H), B, C (..., T, G, N) -> (..., H, T, T)"""
    repeat = dt.shape[-1] // B.shape[-2]
    B, C = (t.transpose(-3, -2).repeat_interleave(repeat, -3) for t in (B, C))  # (..., H, T, N)
    total = log_decay.mT.cumsum(-1)  # (..., H, T)
    return C @ B.mT * decays(total) * dt.mT.unsqueeze(-2)


def decays(total: Tensor) -> Tensor:
    """exp(total_t - total_s) for s ≤ t, else 0: (..., T) -> (..., T, T)"""
    return _Decays.apply(total)  # type: ignore[return-value]


class _Decays(torch.autograd.Function):
    """By hand, for fewer passes over (T, T)."""

    @staticmethod
    def forward(ctx: Any, total: Tensor) -> Tensor:
        T = total.shape[-1]
        later = torch.ones(T, T, dtype=torch.bool, device=total.device).triu(1)
        y = total.unsqueeze(-1) - total.unsqueeze(-2)
        y.masked_fill_(later, -math.inf).exp_()  # (masked first: they would overflow)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        g = grads[0] * ctx.saved_tensors[0]
        return g.sum(-1) - g.sum(-2)


def scan(x: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The product of `semiseparable` with x (..., T, H, P), in time linear in T.

    Chunks of at most `CHUNK` positions are multiplied out; a state (N, P) per head carries what came
    before (Dao and Gu 2024, arXiv:2405.21060, section 6).
    """
    lead, (T, H, P), (G, N) = x.shape[:-3], x.shape[-3:], B.shape[-2:]
    chunks = -(-T // CHUNK)
    Q = -(-T // chunks)

    def cut(t: Tensor, *rest: int) -> Tensor:
        """(..., T, ...) -> (n, chunks, Q, *rest); positions added at the end have dt = 0 and change nothing."""
        t = t.reshape(-1, T, math.prod(rest))
        return F.pad(t, (0, 0, 0, chunks * Q - T)).view(-1, chunks, Q, *rest)

    x = cut(x * dt.unsqueeze(-1), G, H // G, P).permute(0, 1, 3, 4, 2, 5)  # (n, c, G, H/G, Q, P)
    B, C = (cut(t, G, N).transpose(2, 3) for t in (B, C))  # (n, c, G, Q, N)
    total = cut(log_decay, G, H // G).cumsum(2).permute(0, 1, 3, 4, 2)  # (n, c, G, H/G, Q)
    y = ((C @ B.mT).unsqueeze(3) * decays(total)) @ x
    if chunks > 1:
        y = torch.cat((y[:, :1], y[:, 1:] + carried(x, total, B, C)), 1)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(-1, chunks * Q, H, P)
    return y[:, :T].view(*lead, T, H, P)


def carried(x: Tensor, total: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """What every chunk but the first gets from those before it: (n, c - 1, G, H/G, Q, P)"""
    n, c, G, K, Q, P = x.shape
    left = (total[..., -1:] - total).exp().unsqueeze(-1)  # decay from a position to its chunk's end
    flat = (x * left)[:, :-1].transpose(3, 4).reshape(n, c - 1, G, Q, K * P)
    gained = (B[:, :-1].mT @ flat).unflatten(-1, (K, P))  # (n, c - 1, G, N, K, P)
    whole = total[:, :, :, None, :, -1:].exp()  # (n, c, G, 1, K, 1)
    state = gained[:, 0]
    states = [state]
    for i in range(1, c - 1):
        state = state * whole[:, i] + gained[:, i]
        states.append(state)
    read = C[:, 1:] @ torch.stack(states, 1).flatten(-2)  # (n, c - 1, G, Q, K·P)
    return read.unflatten(-1, (K, P)).transpose(3, 4) * total[:, 1:].exp().unsqueeze(-1)


def mixer_of(name: str, heads: int, state: int, groups: int) -> Mixer:
    if name in ("attention", "vandermonde"):
        return (Attention if name == "attention" else Vandermonde)(heads, state)
    if name == "toeplitz":
        return Toeplitz(heads)
    return (Quasiseparable if name == "quasiseparable" else Semiseparable)(heads, state, groups)


class Conv(Drawn):
    """Every channel convolved with its own taps, to both sides; x (..., T, C)."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight, self.bias = unset(channels, taps), unset(channels)
        self.std = 1 / math.sqrt(3 * taps)

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.stack([spread(w, x.dim()) for w in self.weight.unbind(-1)])
        y: Tensor = _Convolve.apply(x, taps)  # type: ignore[assignment]
        return y + spread(self.bias, x.dim())


class _Convolve(torch.autograd.Function):
    """x (..., T, C), taps (K, ..., C): a few passes of multiply and add, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        return slid(x, taps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (x, taps), g = ctx.saved_tensors, grads[0]
        K, T = len(taps), g.shape[-2]
        x = F.pad(x, (0, 0, K // 2, K // 2))
        parts = [(x[..., k : k + T, :] * g).sum_to_size(taps.shape[1:]) for k in range(K)]
        return slid(g, taps.flip(0)), torch.stack(parts)


def slid(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = Σ_k taps_k x_(t + k - K // 2)"""
    K, T = len(taps), x.shape[-2]
    x = F.pad(x, (0, 0, K // 2, K // 2))
    y = x[..., :T, :] * taps[0]
    for k in range(1, K):
        y.addcmul_(x[..., k : k + T, :], taps[k])
    return y


class Diagonal(Part):
    """What of the diagonal does not depend on x: D."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = unset(heads)

    def forward(self, x: Tensor) -> Tensor:
        return x + spread(self.weight, x.dim())


class Mixing(nn.Module):
    """Project, convolve, mix, normalize, gate, project back."""

    def __init__(
        self, width: int, head_dim: int, mixer: Mixer, d: Dims, taps: int, eps: float, depth: int
    ) -> None:
        super().__init__()
        self.in_proj = Linear(width, 2 * d.inner + d.features + d.raw)
        self.conv, self.mixer = Conv(d.inner + d.features, taps), mixer
        self.skip, self.D = Linear(d.inner, d.heads), Diagonal(d.heads)
        self.norm = RMSNorm(d.inner, eps)
        self.out_proj = Linear(d.inner, width, 1 / math.sqrt(depth))
        self.in_qkv, self.in_mlp, self.in_o = Seam(width), Seam(d.inner), Seam(d.inner)
        self.parts = (d.inner, d.inner + d.features, d.raw)
        self.inner, self.head_dim = d.inner, head_dim

    def forward(self, u: Tensor) -> Tensor:
        z, both, raw = self.in_proj(self.in_qkv(u)).split(self.parts, -1)
        x, features = self.convolved(both)
        diagonal = self.D(self.skip(self.in_mlp(x))).unsqueeze(-1)  # (..., T, H, 1)
        x = x.unflatten(-1, (-1, self.head_dim))  # (..., T, H, P)
        y = (self.mixer(x, features, raw) + x * diagonal).flatten(-2)
        return self.out_proj(self.in_o(self.norm(y) * F.silu(z)))

    def convolved(self, both: Tensor) -> tuple[Tensor, Tensor]:
        both = self.conv(both)
        if self.mixer.activated:
            both = F.silu(both)
        x, features = both[..., : self.inner], both[..., self.inner :]
        return x if self.mixer.activated else F.silu(x), features


class Block(nn.Module):
    """Pre-norm residual mixing."""

    def __init__(self, norm: nn.Module, mixing: Mixing) -> None:
        super().__init__()
        self.norm, self.mixing = norm, mixing

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixing(self.norm(x))


class MaskedEmbedding(Embedding):
    """A table with one more row, for hidden tokens: ids below 0 (training/objectives.py)."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__(vocab + 1, width)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids.where(ids >= 0, self.weight.shape[-2] - 1))


class Encoder(parts.Decoder):
    """ids (B, T), hidden ones below 0 -> logits (B, T, vocab) of what stands at each position."""

    objective = "masked"
