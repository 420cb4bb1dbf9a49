"""Gradients through rounding, whose own derivative is zero almost everywhere.

    ste    identity (Bengio et al. 2013, arXiv:1308.3432)
    clip   identity where |x| is within the largest number, 0 beyond
    trust  identity where |x| is within it and half a step, 0 beyond: where the rounding error is at most
           half a step (Panferov et al. 2025, arXiv:2502.05003, QuEST)
    lsq    clip, and a gradient for a learned scale (Esser et al. 2020, arXiv:1902.08153)

Under scales that clip nothing the first three are one. Scales that are computed get no gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import reference

Map = Callable[[Tensor], Tensor]
Masked = Callable[[Tensor], tuple[Tensor, Tensor]]  # values, and where their gradient passes


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantize: Map) -> Tensor:
        return quantize(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantize: Masked) -> Tensor:
        y, mask = quantize(x)
        ctx.save_for_backward(mask)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.saved_tensors[0], None


class _LearnedScale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s: Tensor, nearest: Map, low: float, high: float, group: int | None
    ) -> Tensor:
        v = reference.split(reference.computing(x), group) / s.unsqueeze(-1)
        q = nearest(v.clamp(low, high))
        ctx.save_for_backward(v, q)
        ctx.low, ctx.high = low, high
        return (q * s.unsqueeze(-1)).view(x.shape).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        v, q = ctx.saved_tensors
        g = grads[0].reshape(v.shape).to(v.dtype)
        inside = (v > ctx.low) & (v < ctx.high)
        ds = (g * torch.where(inside, q - v, v.clamp(ctx.low, ctx.high))).sum(-1)
        ds = ds / (v.shape[-1] * ctx.high) ** 0.5
        return (g * inside).view(grads[0].shape).to(grads[0].dtype), ds, None, None, None, None


def straight_through(quantize: Map, unrecorded: Map | None = None) -> Map:
    """`quantize`, with the gradient of the identity. unrecorded: instead, where none is asked for."""
    return _estimator(lambda x: _StraightThrough.apply(x, quantize), unrecorded or quantize)


def within(quantize: Masked, unrecorded: Map) -> Map:
    """The values of `quantize`, with the gradient of the identity where its mask is true, and 0 elsewhere."""
    return _estimator(lambda x: _Within.apply(x, quantize), unrecorded)


def _estimator(recorded: Callable[[Tensor], Any], unrecorded: Map) -> Map:
    def apply(x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return recorded(x)
        return unrecorded(x)

    return apply


def learned_scale(
    x: Tensor, s: Tensor, nearest: Map, low: float, high: float, group: int | None
) -> Tensor:
    """nearest(clip(x / s, low, high)) * s, with LSQ's gradients of x and of s.

    The gradient of s is divided by sqrt(values per scale * high), as in the paper.
    """
    return _LearnedScale.apply(x, s, nearest, low, high, group)  # type: ignore[return-value]
