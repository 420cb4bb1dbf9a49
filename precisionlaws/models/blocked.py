"""Causal attention over short sequences on a CPU, in blocks of queries.

torch's fused attention visits one head of one sequence at a time, and computes its scores again for the backward
pass. Here a block of queries of all heads of a few sequences is one batch of products with the keys up to it, so
that most of the scores that the mask discards are never computed, and the backward pass finds the softmax where the
forward pass left it. One step of attention takes .7 to .9 of the time at 256 tokens, .65 at 512
(benchmarks/bench_parts.py), and about T/2 numbers per token and head are kept for it.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from precisionlaws.models.own import BLOCK

# Of a block with all keys: as many as a core's own cache holds. (Lanes of a pack keep their bits because sizes make
# H·D a multiple of 16: where a head is no whole number of vectors, how they lie in memory would decide.)
SCORES = 2**18


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal softmax attention; q, k and v (B, T, H, D) -> (B, T, H·D). scale: of the scores."""
    return _Blocks.apply(q, k, v, scale)  # type: ignore[return-value]


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        B, T, H, _ = shape = q.shape
        q, k, v = heads_first(q).mul_(scale), heads_first(k), heads_first(v)
        mask = q.new_full((BLOCK, BLOCK), -math.inf).triu_(1)
        y, kept = q.new_empty(shape), []
        for rows, heads, start, stop in blocks(B, T, H):
            n = stop - start
            scores = torch.bmm(q[heads, start:stop], k[heads, :stop].mT)
            scores[..., start:].add_(mask[:n, :n])
            p = scores.softmax(-1)
            y[rows, start:stop] = heads_last(torch.bmm(p, v[heads, :stop]), H)
            kept.append(p)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.scale = shape, scale
        return y.flatten(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        q, k, v, *kept = ctx.saved_tensors
        B, T, H, D = ctx.shape
        g = heads_first(grads[0].unflatten(-1, (H, D)))
        dq, dk, dv = q.new_empty(ctx.shape), torch.empty_like(k), torch.empty_like(v)
        # From the last block of a group, which reaches all of its keys, to the first.
        for rows, heads, start, stop in reversed(list(blocks(B, T, H))):
            p, here = kept.pop(), g[heads, start:stop]
            dp = torch.bmm(here, v[heads, :stop].mT)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            part = heads_last(torch.bmm(ds, k[heads, :stop]), H)
            torch.mul(part, ctx.scale, out=dq[rows, start:stop])
            if stop == T:
                torch.bmm(ds.mT, q[heads, start:stop], out=dk[heads])
                torch.bmm(p.mT, here, out=dv[heads])
            else:
                dk[heads, :stop].add_(torch.bmm(ds.mT, q[heads, start:stop]))
                dv[heads, :stop].add_(torch.bmm(p.mT, here))
        return dq, heads_last(dk, H), heads_last(dv, H), None


def heads_first(x: Tensor) -> Tensor:
    """(B, T, H, D) -> (B·H, T, D), a copy."""
    return x.transpose(1, 2).clone(memory_format=torch.contiguous_format).flatten(0, 1)


def heads_last(x: Tensor, heads: int) -> Tensor:
    """(B·H, T, D) -> (B, T, H, D), a view."""
    return x.unflatten(0, (-1, heads)).transpose(1, 2)


def blocks(B: int, T: int, H: int) -> Iterator[tuple[slice, slice, int, int]]:
    """Sequences, their heads, and first and last query + 1 of every block of B sequences of T tokens."""
    at_once = max(1, round(SCORES / (H * BLOCK * T)))
    for first in range(0, B, at_once):
        last = min(B, first + at_once)
        for start in range(0, T, BLOCK):
            yield slice(first, last), slice(first * H, last * H), start, min(T, start + BLOCK)
