"""Blocks of a vector times H / sqrt(n), the Hadamard matrix in Sylvester's order, by butterflies.

Orthonormal and its own inverse, so rotating both operands of a product over the reduced axis leaves the
product as it is, while values of a block become sums of them all: outliers are spread, and what is left
looks normal. log2 n passes of sums and differences in a fixed order, in computing precision: the same
bits wherever it runs, and no tf32 or autocast comes between.
"""

from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import reference

MOST = 128  # values of a block


def block_of(length: int) -> int:
    """The largest power of two up to MOST that divides `length`."""
    return min(length & -length, MOST)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: int) -> Tensor:
        from precisionlaws.kernels import ops

        ctx.block = block
        return ops.rotated(x, block)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        from precisionlaws.kernels import ops

        return ops.rotated(grads[0], ctx.block), None


def rotate(x: Tensor, block: int) -> Tensor:
    """Every `block` consecutive values of the last axis, rotated: same shape and dtype; has a gradient.

    Raises: ValueError if `block` is no power of two or does not divide the last axis.
    """
    if block < 1 or block & (block - 1):
        raise ValueError(f"blocks of a Hadamard rotation are powers of two, got {block}")
    reference.check_group(x, block)
    return _Rotate.apply(x, block)  # type: ignore[return-value]


def rotated(x: Tensor, block: int) -> Tensor:
    """The same without checks, in plain torch: what defines the result."""
    y = reference.computing(x).reshape(-1, block)
    half = 1
    while half < block:  # halves of every row meet, and sum and difference become neighbours
        a, b = y.view(-1, 2, block // 2).unbind(1)
        y = torch.stack((a + b, a - b), -1).view(-1, block)
        half *= 2
    return y.mul(block**-0.5).view(x.shape).to(x.dtype)
