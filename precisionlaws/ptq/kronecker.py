"""Random rotations of a vector by two small matrices: the incoherence processing of QuIP.

Chee et al. 2023 (arXiv:2307.13304), section 4.2: with n = p q, p and q as equal as can be, n numbers are
permuted, written as a matrix (p, q), multiplied by random orthogonal matrices from both sides, and permuted
again: n (p + q) operations. A prime n has p = 1 and takes one matrix (n, n). All of it follows from a seed.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kronecker:
    before: Tensor  # (n,) permutation
    left: Tensor  # (p, p) float64
    right: Tensor  # (q, q) float64
    after: Tensor  # (n,) permutation

    @staticmethod
    def random(n: int, generator: torch.Generator) -> "Kronecker":
        p = next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)
        before, after = (torch.randperm(n, generator=generator) for _ in range(2))
        left, right = (orthogonal(size, generator) for size in (p, n // p))
        return Kronecker(before, left, right, after)

    def turn(self, x: Tensor) -> Tensor:
        """Rotate the last axis."""
        y = x[..., self.before].unflatten(-1, (len(self.left), len(self.right)))
        return (self.left.to(y) @ y @ self.right.T.to(y)).flatten(-2)[..., self.after]

    def back(self, x: Tensor) -> Tensor:
        """What `turn` rotated, as it was"""
        y = x[..., self.after.argsort()].unflatten(-1, (len(self.left), len(self.right)))
        return (self.left.T.to(y) @ y @ self.right.to(y)).flatten(-2)[..., self.before.argsort()]


def orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """(n, n) float64, uniform among all orthogonal ones"""
    Q, R = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    return Q * R.diagonal().sign()
