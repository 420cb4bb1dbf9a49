"""LDLQ with eight inputs at a time, and the passes after it: what QuIP# does between its rotations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precisionlaws.ptq import blocks, ldlq, residual
from precisionlaws.ptq.e8p import WIDTH


@dataclass(frozen=True)
class Solved:
    words: Tensor  # (stages, out, in / 8)
    scale: Tensor  # () bfloat16
    info: Mapping[str, Any]


def solve(W: Tensor, H: Tensor, bits: int, percdamp: float, passes: int) -> Solved:
    """Round W (out, in), in a multiple of eight; H (in, in) float64."""
    scale = scale_of(W, bits)
    x = (W / (scale.to(W.dtype) or 1.0)).T.contiguous()  # (in, out)
    factor = ldlq.factorize(H, percdamp, x.dtype)
    state = State(x, bits)
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    blocks.feed(x, blocks.by_blocks(factor.L, WIDTH) - eye, state.E, WIDTH, state.nearest)
    tensors = state.E, state.Q, state.words
    done = blocks.improve(x, H, factor.damping, passes, WIDTH, state.better, tensors)
    words = state.words.transpose(1, 2).contiguous()
    return Solved(words, scale, {"damping": factor.damping, "passes": done})


def scale_of(W: Tensor, bits: int) -> Tensor:
    """() bfloat16: the unit of the codebook of the first stage; 0 for a matrix of zeros"""
    return (W.double().square().mean().sqrt() / residual.SCALES[bits][0]).bfloat16()


class State:
    """Errors, points and words of all blocks while they are found; everything but words is (in, out)."""

    def __init__(self, x: Tensor, bits: int) -> None:
        shape = len(residual.stages(bits)), len(x) // WIDTH, x.shape[1]
        self.x, self.bits = x, bits
        self.E, self.Q = torch.zeros_like(x), torch.zeros_like(x)
        self.words = torch.zeros(shape, dtype=torch.int64, device=x.device)

    def nearest(self, k: int, target: Tensor) -> Tensor:
        words, points = residual.encode(target.T.contiguous(), self.bits)
        self.words[:, k], Q = words, self.Q[k * WIDTH : (k + 1) * WIDTH]
        return Q.copy_(points.T)

    def better(self, k: int, target: Tensor, own: Tensor) -> Tensor:
        """The nearest points, but only where they are better than the present ones under `own` H."""
        words, points = residual.encode(target.T.contiguous(), self.bits)
        part = self.Q[k * WIDTH : (k + 1) * WIDTH]

        def cost(of: Tensor) -> Tensor:
            error = of - target
            return (own @ error).mul_(error).sum(0)

        lower = cost(points.T) < cost(part)
        self.words[:, k] = torch.where(lower, words, self.words[:, k])
        return part.copy_(torch.where(lower, points.T, part))


def stored(words: Tensor, bits: int) -> Tensor:
    """(stages, out, in / 8) -> bytes: stage after stage, two bytes or one per word"""
    dtypes = {2: torch.int16, 1: torch.uint8}
    parts = [
        word.cpu().to(dtypes[kind]).reshape(-1).view(torch.uint8)
        for word, kind in zip(words, residual.stages(bits), strict=True)
    ]
    return torch.cat(parts)


def decoded(codes: Tensor, bits: int, shape: Sequence[int]) -> Tensor:
    """`stored` -> points (out, in) float32"""
    count, kinds = math.prod(shape) // WIDTH, residual.stages(bits)
    parts = codes.split([kind * count for kind in kinds])
    words = [
        (part.view(torch.int16) if kind == 2 else part).long()
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return residual.decode(torch.stack(words), bits).reshape(*shape)
