"""The parts of models on the unit sphere: ngpt.py tells what they are for."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.models import parts
from precisionlaws.models.attention import Attends, Rope, attend
from precisionlaws.models.parts import Embedding, Linear, Part, Seam, fits, spread

SMALL = 1e-12  # vectors shorter than this are not stretched to length 1


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.normalize(x, dim=-1, eps=SMALL)
    return _Unit.apply(x)  # type: ignore[return-value]


class _Unit(torch.autograd.Function):
    """F.normalize with fewer passes over memory, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(SMALL).reciprocal_()
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y, r), g = ctx.saved_tensors, grads[0]
        return (g - y * (g * y).sum(-1, keepdim=True)).mul_(r)


class PublicRope(Rope):
    """What the public repository computes: no rotation (ngpt.py). Pairs (i, i + D/2), as in `Rope`."""

    def __init__(self, head_dim: int, heads: int, context: int, base: float) -> None:
        super().__init__(head_dim, heads, context, base)
        half = head_dim // 2
        waves = torch.stack((self.sin[:, half:], self.cos[:, half:]), -1).flatten(-2)
        self.table("sin", torch.cat((-waves[:, half:], waves[:, :half]), -1))

    def forward(self, x: Tensor) -> Tensor:
        T, H, D = x.shape[-3:]
        fits(T, len(self.sin) // H)
        return x.roll(D // 2, -1) * self.sin[: T * H].view(T, H, D)


class Scale(Part):
    """A gain per number of the last axis, `first` at the start and stored as `scale`."""

    def __init__(self, width: int, first: float, scale: float) -> None:
        super().__init__()
        self.weight = parts.unset(width)
        self.stored, self.factor = scale, first / scale

    def start(self, leaf: str, shape: torch.Size, seed: int, name: str) -> Tensor:
        return torch.full(shape, self.stored)

    def gain(self, axes: int) -> Tensor:
        """What multiplies a tensor of so many axes."""
        return spread(self.weight * self.factor, axes)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain(x.dim())


class Attention(Attends):
    """Causal attention over unit queries and keys."""

    def __init__(self, width: int, heads: int, rope: Rope) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (Linear(width, width) for _ in range(4))
        self.s_qk = Scale(width, 1.0, width**-0.5)
        self.rope, self.head_dim = rope, width // heads
        self.in_qkv, self.in_o = Seam(width), Seam(width)
        self.k_cache, self.v_cache = Seam(self.head_dim), Seam(self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_qkv(x)  # (..., T, C)
        q, k, v = (m(x).unflatten(-1, (-1, self.head_dim)) for m in (self.q, self.k, self.v))
        gain = self.s_qk.gain(x.dim()).unflatten(-1, (-1, self.head_dim))
        q, k = (unit(self.rope(t)) * gain for t in (q, k))  # (..., T, H, D)
        scale = math.sqrt(self.head_dim)
        y = attend(q, self.k_cache(k), self.v_cache(v), 1, scale, self.own)
        return self.o(self.in_o(y))


class SwiGLU(nn.Module):
    """down(s_u (up x) · silu(s_v √width (gate x)))"""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = Linear(width, hidden), Linear(width, hidden)
        self.down = Linear(hidden, width)
        self.s_u, self.s_v = Scale(hidden, 1.0, 1.0), Scale(hidden, 1.0, 1.0)
        self.in_mlp, self.in_down = Seam(width), Seam(hidden)
        self.stretch = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_mlp(x)
        u = self.s_u(self.up(x)) * self.stretch
        return self.down(self.in_down(u * F.silu(self.s_v(self.gate(x)) * self.stretch)))


class Block(nn.Module):
    """Moves along the sphere towards what attention, then the MLP, proposes."""

    def __init__(self, attn: nn.Module, mlp: nn.Module, alphas: Sequence[Scale]) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp
        self.attn_alpha, self.mlp_alpha = alphas

    def forward(self, h: Tensor) -> Tensor:
        h = moved(h, self.attn(h), self.attn_alpha)
        return moved(h, self.mlp(h), self.mlp_alpha)


def moved(h: Tensor, proposed: Tensor, alpha: Scale) -> Tensor:
    here = unit(h)
    return unit(torch.lerp(here, unit(proposed), alpha.gain(h.dim()).abs()))


class Decoder(parts.Decoder):
    """ids (B, T) -> logits (B, T, vocab)"""

    def __init__(self, embed: Embedding, blocks: Sequence[nn.Module], head: Linear) -> None:
        super().__init__(embed, blocks, nn.Identity(), head)
        vocab, width = head.weight.shape
        self.s_z = Scale(vocab, 1.0, width**-0.5)

    def logits(self, ids: Tensor) -> Tensor:
        return self.s_z(super().logits(ids))

    @torch.no_grad()
    def constrain(self) -> None:
        """Length 1 along the embedding: rows, but columns of the matrices that write to the stream."""
        for name, module in self.named_modules():
            if isinstance(module, (Linear, Embedding)):
                axis = -2 if name.rpartition(".")[2] in ("o", "down") else -1
                norm = torch.linalg.vector_norm(module.weight, dim=axis, keepdim=True)
                module.weight.div_(norm.clamp_min_(SMALL))
