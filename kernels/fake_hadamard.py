# pyright: basic
"""The block rotation of hadamard.py in Triton: a product with the ±1 matrix, on tensor cores.

A butterfly of neighbours passes through shared memory in each of its log2 n stages; the product needs
20 times fewer barriers. Its terms are exact, because fp32 is split in three numbers of bf16, and its sums
are of fp32 but in the hardware's order: the one kernel whose bits are not those of plain torch.
"""

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from precisionlaws.kernels import device
from precisionlaws.kernels.device import constants, load, store

LEAST = 16  # rows and columns of a product of tensor cores


@triton.jit
def _leading(x):
    """The first 8 bits of the significand in bf16, and the rest: three times, and fp32 is whole."""
    first = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return first.to(tl.bfloat16), tl.where(first == x, 0.0, x - first)


@triton.jit
def _signs(i, j):
    """(-1)^(bits that i and j share), the entries of H: int32."""
    odd = i[:, None] & j[None, :]
    odd = odd ^ (odd >> 4)
    odd = odd ^ (odd >> 2)
    return 1 - 2 * ((odd ^ (odd >> 1)) & 1)


@triton.jit
def _rotate_kernel(
    x_ptr,
    y_ptr,
    rows_,  # in the whole tensor
    factor,
    BLOCK: tl.constexpr,  # values of a row
    ROWS: tl.constexpr,  # per program
    STEP: tl.constexpr,  # values of a row at a time: the whole of H would not fit in registers
    INTERP: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows, columns, part = tl.arange(0, ROWS), tl.arange(0, BLOCK), tl.arange(0, STEP)
    there = (rows < tl.minimum(rows_ - first, ROWS).to(tl.int32))[:, None]
    y = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in range(BLOCK // STEP):
        at = step * STEP + part
        H = _signs(at, columns)
        inside = there & (at >= 0)[None, :]
        x = load(x_ptr + first * BLOCK + (rows[:, None] * BLOCK + at[None, :]), inside, INTERP)
        if BLOCK < 16:
            y += tl.sum(x[:, :, None] * H.to(tl.float32)[None, :, :], axis=1)
        elif INTERP:  # multiplies bf16 as integers
            y = tl.dot(x, H.to(tl.float32), y, input_precision="ieee")
        elif x_ptr.dtype.element_ty == tl.float32:
            H = H.to(tl.bfloat16)
            a, rest = _leading(x)
            b, c = _leading(rest)
            y = tl.dot(c.to(tl.bfloat16), H, y)
            y = tl.dot(b, H, y)
            y = tl.dot(a, H, y)
        else:
            y = tl.dot(x.to(x_ptr.dtype.element_ty), H.to(x_ptr.dtype.element_ty), y)
    inside = there & (columns >= 0)[None, :]
    offsets = rows[:, None] * BLOCK + columns[None, :]
    store(y_ptr + first * BLOCK + offsets, y * factor, inside, INTERP)


def rotated(x: Tensor, block: int) -> Tensor:
    """`hadamard.rotated` of fp32, fp16 or bf16. Raises: ValueError for another dtype."""
    x = device.checked(x)
    y = torch.empty_like(x)
    if not x.numel():
        return y
    rows = x.numel() // block
    tile, warps = shape_of(block)
    tile = device.held_rows(tile, block, max(rows, LEAST))
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        fixed = constants(warps, BLOCK=block, ROWS=tile, STEP=step_of(block, x.element_size()))
        _rotate_kernel[(triton.cdiv(rows, tile),)](x, y, rows, block**-0.5, **fixed)
    return y


def shape_of(block: int) -> tuple[int, int]:
    """Rows per program, and warps."""
    return min(256, 4096 // block), 4


def step_of(block: int, size: int) -> int:
    """Values of `size` bytes at a time: 64 bytes of a row, which 128 threads load by 16."""
    return min(block, 64 // size)
