"""Rotations after which every weight looks like any other, and the outputs of a layer stay what they are.

W x = (W Rᵀ)(R x) for an orthogonal R, and the error tr(E H Eᵀ) is the same for W Rᵀ and R H Rᵀ. A random R
spreads outliers over all weights and inputs (Chee et al. 2023, arXiv:2307.13304): weights then look normal.

`hadamard`: random signs, then a Hadamard matrix, in n log n operations (Tseng et al. 2024,
arXiv:2402.04396). There is none for most n that are not powers of two. With n = odd · 2^k we take the
Kronecker product of Hartley's matrix of the odd factor, entries (cos + sin)(2π i j / odd) / √odd, with
Hadamard's of 2^k: for every n it is orthogonal, symmetric and its own inverse, no entry is larger than
√2 / √n, and it is Hadamard's where n is a power of two.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from precisionlaws.kernels.hadamard import rotated


@functools.cache
def hartley(n: int) -> Tensor:
    """(n, n) float64: orthogonal, symmetric, its own inverse, for any n."""
    # i j is reduced first, so that angles are exact to the last bit for every n.
    turns = torch.arange(n).outer(torch.arange(n)) % n
    angle = turns.double() * (2 * math.pi / n)
    return (angle.cos() + angle.sin()) / math.sqrt(n)


def hadamard(x: Tensor) -> Tensor:
    """Rotate the last axis, of any length."""
    n = x.shape[-1]
    power = n & -n
    y = rotated(x.reshape(-1, power), power)
    if n == power:
        return y.view(x.shape)
    return (hartley(n // power).to(x) @ y.view(-1, n // power, power)).view(x.shape)


@dataclass(frozen=True)
class Rotation:
    """Signs of outputs (out,) and inputs (in,), -1 or 1 in float32: a rotation of both sides of a matrix."""

    outputs: Tensor
    inputs: Tensor

    @staticmethod
    def random(rows: int, columns: int, generator: torch.Generator | None) -> "Rotation":
        return Rotation.of(torch.randint(2, (rows + columns,), generator=generator), rows)

    @staticmethod
    def of(negative: Tensor, rows: int) -> "Rotation":
        signs = 1.0 - 2 * negative
        return Rotation(signs[:rows], signs[rows:])

    def negative(self) -> Tensor:
        return (torch.cat([self.outputs, self.inputs]) < 0).long()

    def weight(self, W: Tensor) -> Tensor:
        """(out, in), rotated"""
        across = hadamard(W * self.inputs.to(W))
        return hadamard(across.T * self.outputs.to(W)).T

    def hessian(self, H: Tensor) -> Tensor:
        """(in, in) float64, rotated"""
        H, signs = H.double(), self.inputs.to(H.device).double()
        return hadamard(hadamard(H * signs).T * signs)

    def back(self, W: Tensor) -> Tensor:
        """What `weight` rotated, as it was"""
        across = hadamard(W) * self.inputs.to(W)
        return (hadamard(across.T) * self.outputs.to(W)).T
