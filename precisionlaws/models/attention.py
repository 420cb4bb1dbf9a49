"""Causal attention and rotary positions, over the parts of models.parts.

As there, every part takes a leading member axis, and chains of elementwise operations have hand-written
backward passes.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from precisionlaws.models import blocked
from precisionlaws.models.own import BLOCKS
from precisionlaws.models.parts import Linear, Own, RMSNorm, Seam, fits


class Rope(nn.Module):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): pairs (i, i + D/2) turn with the position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, heads: int, context: int, base: float) -> None:
        super().__init__()
        rates = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.outer(torch.arange(context, dtype=torch.float64), rates)  # (T, D/2)
        # One copy per head: broadcasting over an inner axis costs 3 times the arithmetic on a CPU.
        self.table("cos", torch.cat((angle.cos(), angle.cos()), -1).repeat_interleave(heads, 0))
        self.table("sin", torch.cat((-angle.sin(), angle.sin()), -1).repeat_interleave(heads, 0))
        self.heads = heads

    def table(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., T, H, D)"""
        T = x.shape[-3]
        rows = T * self.heads
        fits(T, len(self.cos) // self.heads)
        cos, sin = (t[:rows].view(-1, self.heads, x.shape[-1]) for t in (self.cos, self.sin))
        return _Rotate.apply(x, cos, sin)  # type: ignore[return-value]


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (cos, sin), g = ctx.saved_tensors, grads[0]
        return (g * cos).addcmul_(g.roll(g.shape[-1] // 2, -1), sin, value=-1), None, None


class Attends(Own):
    """What calls `attend`."""

    NAME = BLOCKS


class Attention(Attends):
    """Causal attention; `kv_heads` heads of keys and values, each shared by heads / kv_heads queries.

    qk_norm: eps of an RMSNorm of every query and key over its head, before the rotation; None: no norm.
    """

    scale: float | None = None  # of the scores; None: 1/√D. Parametrizations set it

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        depth: int,
        ropes: tuple[Rope, Rope] | None = None,
        bias: bool = False,
        qk_norm: float | None = None,
    ) -> None:
        """ropes: rotations of the queries and of the keys."""
        super().__init__()
        turns: Sequence[nn.Module] = ropes or (nn.Identity(), nn.Identity())
        if qk_norm is not None:
            turns = [nn.Sequential(RMSNorm(width // heads, qk_norm), turn) for turn in turns]
        self.rope_q, self.rope_k = turns
        self.head_dim, self.repeat = width // heads, heads // kv_heads
        self.q = Linear(width, width, bias=bias)
        self.k = Linear(width, kv_heads * self.head_dim, bias=bias)
        self.v = Linear(width, kv_heads * self.head_dim, bias=bias)
        self.o = Linear(width, width, 1 / math.sqrt(2 * depth), bias)
        self.in_qkv, self.in_o = Seam(width), Seam(width)
        self.k_cache, self.v_cache = Seam(self.head_dim), Seam(self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_qkv(x)  # (..., T, C)
        q, k, v = (self.heads(m(x)) for m in (self.q, self.k, self.v))  # (..., T, H, D)
        k, v = self.k_cache(self.rope_k(k)), self.v_cache(v)
        y = attend(self.rope_q(q), k, v, self.repeat, self.scale, self.own)
        return self.o(self.in_o(y))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    repeat: int,
    scale: float | None = None,
    own: bool = False,
) -> Tensor:
    """Causal softmax attention; q (..., T, H, D), k and v (..., T, H / repeat, D) -> (..., T, H·D).

    scale: of the scores; None: 1/√D. own: by models/blocked.py, where gradients are asked for.
    """
    lead = q.shape[:-2]
    if len(lead) > 2:  # the fast paths have one axis of sequences
        q, k, v = (t.flatten(0, -4) for t in (q, k, v))
    if repeat > 1:
        k, v = (t.repeat_interleave(repeat, -2) for t in (k, v))
    if own and torch.is_grad_enabled():
        y = blocked.attend(q, k, v, 1 / math.sqrt(q.shape[-1]) if scale is None else scale)
        return y.view(*lead, -1)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return y.transpose(1, 2).reshape(*lead, -1)
