# pyright: basic
"""NVFP4 in Triton: bit for bit what `blocks.nvfp4` gives.

One pass where the outer scale is of a row that a program holds, or absent; the maximum of a tensor, or of
a longer row, is found by a pass of its own.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from precisionlaws.kernels import device, fake_quant
from precisionlaws.kernels.device import (
    constants,
    held_rows,
    load,
    magnitude,
    nearest,
    stochastic,
    store,
    uniform_at,
    uniform_rows,
)
from precisionlaws.kernels.philox import At
from precisionlaws.kernels.reference import check_group


@triton.jit
def _block_scale(most, t, FLOORED: tl.constexpr):
    """b: an E4M3 number per block, NaN for a block that is not finite; both of one shape."""
    b = tl.div_rn(tl.div_rn(most, tl.full(most.shape, 6.0, tl.float32)), tl.where(t == 0, 1.0, t))
    spoilt = magnitude(b) >= 0x7F800000
    if FLOORED:
        b = tl.maximum(b, 0.015625)  # 2^-6
    top, low = tl.full(b.shape, 448.0, tl.float32), tl.full(b.shape, 0.015625, tl.float32)
    b = nearest(b, top, low, tl.full(b.shape, 0.125, tl.float32), False)
    return tl.where(spoilt, float("nan"), b)


@triton.jit(do_not_specialize=["seed", "first_position"])
def _nvfp4_kernel(
    x_ptr,
    y_ptr,
    seen_ptr,  # int32: bits of max|x| of what an outer scale spans; not read unless OUTER is seen
    rows_,  # in the whole tensor
    per_seen,  # rows per outer scale, if OUTER is seen
    seed,
    first_position,
    N: tl.constexpr,  # values per row: of a vector if OUTER is row, else of a block
    GROUP: tl.constexpr,  # values per block
    BLOCKS: tl.constexpr,  # per row, rounded up to a power of two
    WIDTH: tl.constexpr,  # GROUP, rounded up to a power of two
    ROWS: tl.constexpr,  # per program
    OUTER: tl.constexpr,  # row, seen or none
    FLOORED: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    FOURS: tl.constexpr,
    INTERP: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows, columns, blocks = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, BLOCKS)
    offsets = rows[:, None, None] * N + blocks[None, :, None] * GROUP + columns[None, None, :]
    there = rows < tl.minimum(rows_ - first, ROWS).to(tl.int32)
    inside = there[:, None, None] & (blocks * GROUP < N)[None, :, None] & (columns < GROUP)[None, None, :]  # fmt: skip
    x = load(x_ptr + first * N + offsets, inside, INTERP)
    most = tl.max(magnitude(x), axis=2)
    if OUTER == "none":
        t = tl.full(most.shape, 1.0, tl.float32)
    else:
        if OUTER == "row":
            largest = tl.max(most, axis=1)
        else:
            largest = tl.load(seen_ptr + (first + rows) // per_seen, mask=there, other=0)
        t = tl.div_rn(largest.to(tl.float32, bitcast=True), tl.full([ROWS], 2688.0, tl.float32))
        t = tl.broadcast_to(t[:, None], most.shape)
    b = _block_scale(most.to(tl.float32, bitcast=True), t, FLOORED)
    d = t * b
    if FLOORED:
        one = tl.full(t.shape, 1.0, tl.float32)
        back = tl.div_rn(tl.div_rn(one, tl.where(t == 0, 1.0, t)), b)
        v = x * tl.broadcast_to(back[:, :, None], x.shape)
    else:
        v = tl.div_rn(x, tl.broadcast_to(tl.where(d == 0, 1.0, d)[:, :, None], x.shape))
    top, low = tl.full(x.shape, 6.0, tl.float32), tl.full(x.shape, 1.0, tl.float32)
    unit = tl.full(x.shape, 0.5, tl.float32)
    if STOCHASTIC:
        start = first_position.to(tl.int64) + first * N
        if FOURS:
            u = tl.reshape(
                uniform_rows(seed, start, N, ROWS, BLOCKS * WIDTH), (ROWS, BLOCKS, WIDTH)
            )
        else:
            u = uniform_at(seed, start + offsets)
        y = stochastic(v, u, top, low, unit, INTERP)
    else:
        y = nearest(v, top, low, unit, False)
    y = y * tl.broadcast_to(d[:, :, None], x.shape)
    store(y_ptr + first * N + offsets, y, inside, INTERP)


def nvfp4(x: Tensor, group: int, outer: int | None, floored: bool, at: At | None = None) -> Tensor:
    """`blocks.nvfp4` of fp32, fp16 or bf16; outer is None, 0 or the length of a row.

    at: seed and first position of stochastic rounding.
    Raises: ValueError for another dtype, or if the last axis is no multiple of `group`.
    """
    x = device.checked(x)
    check_group(x, group)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    held = bool(outer) and width(outer or 0, group) <= device.HELD
    kind = "row" if held else "none" if outer == 0 else "seen"
    n = x.shape[-1] if held else group
    rows = x.numel() // n
    spanned = outer or x.numel()
    seen = fake_quant.maxima(x, spanned) if kind == "seen" else x
    seed, first = at or (0, 0)
    shape, warps = shape_of(n, group, held or at is not None)
    shape["ROWS"] = held_rows(shape["ROWS"], shape["BLOCKS"] * shape["WIDTH"], rows)
    fours = n % 4 == 0 and first % 4 == 0 and shape["WIDTH"] == group and group >= 4
    fixed = constants(
        warps, N=n, GROUP=group, OUTER=kind, FLOORED=floored, STOCHASTIC=at is not None, FOURS=fours, **shape
    )  # fmt: skip
    grid = (triton.cdiv(rows, shape["ROWS"]),)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        _nvfp4_kernel[grid](x, y, seen, rows, spanned // n, seed, first, **fixed)
    return y


def width(n: int, group: int) -> int:
    """Values of the tile of a row of n values in blocks of `group`. few: values per thread."""
    return triton.next_power_of_2(group) * triton.next_power_of_2(n // group)


def shape_of(n: int, group: int, few: bool) -> tuple[dict[str, int], int]:
    """Tile and warps for rows of n values in blocks of `group`. few: values per thread."""
    each = device.RANDOM_VALUES if few else device.VALUES
    row = width(n, group)
    inner = triton.next_power_of_2(group)
    shape = {"BLOCKS": row // inner, "WIDTH": inner, "ROWS": max(1, 128 * each // row)}
    return shape, max(4, row // (32 * each))
