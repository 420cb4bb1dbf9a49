# pyright: basic
"""Fake quantization of symmetric integers in Triton: bit for bit what `reference.fake_quantize` gives.

What a tensor costs in plain torch is five passes over memory; here the absolute maximum, the quotient,
the rounding and the product share one read and one write. Two layouts of work:

- a scale whose values fit in a program (rows and groups of up to HELD values): one pass, `_held_kernel`;
- longer (a whole tensor, very long rows): the maxima of chunks, then the values. The second pass reduces
  those maxima itself and goes through the chunks backwards, because the end of the tensor is what the
  first pass left in the L2 cache. A maximum does not depend on order, so both are deterministic.

On what bit-identity rests: device.py. The backward pass is the identity (estimators.py): with an absmax
scale nothing is clipped, no mask is stored, and no kernel is needed. Other types: fake_types.py.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from precisionlaws.kernels.device import (
    HELD,
    INTERPRETED,
    INTERPRETED_TILE,
    TILE,
    checked,
    constants,
    held_rows,
    held_shape,
    load,
    magnitude,
    rint,
    store,
    within,
)
from precisionlaws.kernels.reference import check_group

PROGRAMS = 1024  # per scale in two passes; about what 132 multiprocessors run at once


@triton.jit
def _scale(most, limit):
    s = tl.div_rn(most.to(tl.float32, bitcast=True), limit)
    return tl.where(s == 0, 1.0, s)


@triton.jit
def _round(x, s, limit, INTERP: tl.constexpr):
    """clip(rint(x / s), -limit, limit) * s; all three of one shape."""
    # The clip is needed: a subnormal scale is so coarse that codes overflow.
    return within(rint(tl.div_rn(x, s), INTERP), limit) * s


@triton.jit
def _held_kernel(
    x_ptr,
    y_ptr,
    limit_ptr,  # fp32, one per member; not read if PER_MEMBER is 0
    scales,  # in the whole tensor
    limit,  # fp32: the largest code, if PER_MEMBER is 0
    N: tl.constexpr,  # values per scale
    PER_MEMBER: tl.constexpr,  # scales per member
    BLOCK: tl.constexpr,  # N, rounded up to a power of two
    ROWS: tl.constexpr,  # scales per program
    INTERP: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    offsets = rows[:, None] * N + columns[None, :]
    there = rows < tl.minimum(scales - first, ROWS).to(tl.int32)  # 64-bit masks cost registers
    inside = there[:, None] & (columns < N)[None, :]
    x = load(x_ptr + first * N + offsets, inside, INTERP)
    if PER_MEMBER:
        top = tl.load(limit_ptr + (first + rows) // PER_MEMBER, mask=there, other=1.0)
    else:
        top = tl.full([ROWS], limit, tl.float32)
    s = _scale(tl.max(magnitude(x), axis=1), top)
    s, top = tl.broadcast_to(s[:, None], x.shape), tl.broadcast_to(top[:, None], x.shape)
    store(y_ptr + first * N + offsets, _round(x, s, top, INTERP), inside, INTERP)


@triton.jit
def _maxima_kernel(
    x_ptr,
    maxima_ptr,  # int32 (scales, programs): bits of the largest magnitude that a program saw
    n,  # values per scale
    programs,  # per scale
    STEPS: tl.constexpr,  # tiles per program; the last ones may lie beyond the end
    TILE: tl.constexpr,
    INTERP: tl.constexpr,
):
    scale, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    row = x_ptr + scale.to(tl.int64) * n
    columns = tl.arange(0, TILE)
    size = tl.full([], TILE, tl.int64)
    largest = tl.zeros([TILE], tl.int32)
    for step in range(STEPS):  # not to a tensor: the interpreter of 3.6 cannot, with numpy 2.4
        start = (step * programs + program) * size
        left = tl.minimum(n - start, TILE).to(tl.int32)  # 64-bit masks would spill
        x = load(row + start + columns, columns < left, INTERP)
        largest = tl.maximum(largest, magnitude(x))
    tl.store(maxima_ptr + tl.program_id(0), tl.max(largest, axis=0))


@triton.jit
def _values_kernel(
    x_ptr,
    y_ptr,
    maxima_ptr,
    limit_ptr,
    n,
    programs,
    limit,
    PER_MEMBER: tl.constexpr,
    MAXIMA: tl.constexpr,  # programs, rounded up to a power of two
    STEPS: tl.constexpr,
    TILE: tl.constexpr,
    INTERP: tl.constexpr,
):
    scale, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    seen = tl.arange(0, MAXIMA)
    largest = tl.load(
        maxima_ptr + scale.to(tl.int64) * programs + seen, mask=seen < programs, other=0
    )
    if PER_MEMBER:
        limit = tl.load(limit_ptr + scale // PER_MEMBER)
    columns = tl.arange(0, TILE)
    top = tl.full([TILE], limit, tl.float32)
    s = _scale(tl.broadcast_to(tl.max(largest, axis=0), [TILE]), top)
    size = tl.full([], TILE, tl.int64)
    for step in range(STEPS):
        start = ((STEPS - step) * programs - 1 - program) * size
        inside = columns < tl.minimum(n - start, TILE).to(tl.int32)
        at = scale.to(tl.int64) * n + start
        x = load(x_ptr + at + columns, inside, INTERP)
        store(y_ptr + at + columns, _round(x, s, top, INTERP), inside, INTERP)


def fake_quantize(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """`reference.fake_quantize` of fp32, fp16 or bf16 on a GPU, or on a CPU under the interpreter.

    Raises: ValueError for another dtype, or if the last axis is no multiple of `group`.
    """
    x = checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    members = q_max.numel() if isinstance(q_max, Tensor) else 0
    n = group or x.numel() // (members or 1)
    scales = x.numel() // n
    per_member = scales // members if members else 0
    if isinstance(q_max, Tensor):
        limits, limit = q_max.to(x.device, torch.float32).contiguous(), 0.0
    else:
        limits, limit = x, float(q_max)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        launch = _launch_held if n <= HELD else _launch_two_passes
        launch(x, y, limits, limit, n, scales, per_member)
    return y


def _launch_held(
    x: Tensor, y: Tensor, limits: Tensor, limit: float, n: int, scales: int, per_member: int
) -> None:
    block, rows, warps = held_shape(n)
    rows = held_rows(rows, block, scales)
    fixed = constants(warps, N=n, PER_MEMBER=per_member, BLOCK=block, ROWS=rows)
    _held_kernel[(triton.cdiv(scales, rows),)](x, y, limits, scales, limit, **fixed)


def _launch_two_passes(
    x: Tensor, y: Tensor, limits: Tensor, limit: float, n: int, scales: int, per_member: int
) -> None:
    maxima, steps, tile = _chunks(x, n)
    programs = maxima.shape[1]
    most = triton.next_power_of_2(programs)
    fixed = constants(4, PER_MEMBER=per_member, MAXIMA=most, STEPS=steps, TILE=tile)
    grid = (scales * programs,)
    _values_kernel[grid](x, y, maxima, limits, n, programs, limit, **fixed)


def maxima(x: Tensor, n: int) -> Tensor:
    """Bits of max|x| of every n values, NaN above infinity: int32. For n over HELD."""
    return _chunks(x, n)[0].amax(1)


def _chunks(x: Tensor, n: int) -> tuple[Tensor, int, int]:
    """Bits of the maxima, (scales, programs), with the steps and the tile of each program."""
    tile = min(triton.next_power_of_2(n), INTERPRETED_TILE) if INTERPRETED else TILE
    tiles = triton.cdiv(n, tile)
    programs = min(PROGRAMS, tiles)
    steps = triton.cdiv(tiles, programs)
    maxima = torch.empty(x.numel() // n, programs, dtype=torch.int32, device=x.device)
    grid = (maxima.numel(),)
    _maxima_kernel[grid](x, maxima, n, programs, **constants(4, STEPS=steps, TILE=tile))
    return maxima, steps, tile
