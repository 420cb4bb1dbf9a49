"""Gradients through rounding, whose own derivative is zero almost everywhere.

Straight-through (Bengio et al. 2013, arXiv:1308.3432): the backward pass is the identity. With an
absmax scale nothing is clipped, so this equals the clipped estimator, and the scale gets no gradient.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantize: Map) -> Tensor:
        return quantize(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(quantize: Map) -> Map:
    """`quantize`, with the gradient of the identity."""

    def apply(x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            return _StraightThrough.apply(x, quantize)  # type: ignore[return-value]
        return quantize(x)

    return apply
