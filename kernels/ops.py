"""Fake quantization by the backend in effect (backends.py): eager, traced or opaque.

Every function gives what its definition in plain torch gives, and raises what that raises, or what
`backend` raises. Gradients: quant/estimators.py.
"""

import os

import torch
from torch import Tensor

from precisionlaws.kernels import opaque
from precisionlaws.kernels.backends import VARIABLE, kernel
from precisionlaws.kernels.philox import At

# Inductor makes one loop of the reference on a CPU, with the same bits (1.4 instead of 5 times a clone of
# 2048²), but drops the rounding to bf16 between two quantizers, and divides approximately on a GPU.
TRACED = os.environ.get(VARIABLE, "auto") in ("auto", "torch")


def fake_quantize(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """`reference.fake_quantize` by the backend in effect. Its gradient: quant/estimators.py.

    Raises: ValueError if the last axis is no multiple of `group`, or as `backend`.
    """
    if torch.compiler.is_compiling() and not _traced(x):
        members = q_max if isinstance(q_max, Tensor) else None
        return opaque.fake_quant_int(
            x, 0.0 if members is not None else float(q_max), group, members
        )
    return kernel("int", x)(x, q_max, group)


def to_type(
    x: Tensor, mantissa: int, least: int, largest: float, group: int | None, at: At | None = None
) -> Tensor:
    """`scaled.fake_quantize`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_type(x, mantissa, least, largest, group, _listed(at))
    return kernel("type", x)(x, mantissa, least, largest, group, at)


def to_types(x: Tensor, types: Tensor, group: int | None) -> Tensor:
    """`scaled.fake_quantize_members`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_members(x, types, group)
    return kernel("members", x)(x, types, group)


def rounded(
    x: Tensor, s: Tensor, mantissa: int, least: int, largest: float, group: int | None,
    at: At | None = None, midrise: bool = False,
) -> Tensor:  # fmt: skip
    """`scaled.rounded`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_given(x, s, mantissa, least, largest, group, _listed(at), midrise)
    return kernel("rounded", x)(x, s, mantissa, least, largest, group, at, midrise)


def rounded_within(
    x: Tensor, s: Tensor, mantissa: int, least: int, largest: float, group: int | None, bound: float,
    at: At | None = None, midrise: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`scaled.rounded_within`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_within(
            x, s, mantissa, least, largest, group, bound, _listed(at), midrise
        )
    return kernel("within", x)(x, s, mantissa, least, largest, group, bound, at, midrise)


def asymmetric(x: Tensor, n: float, group: int | None) -> Tensor:
    """`asymmetric.fake_quantize`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_asymmetric(x, float(n), group)
    return kernel("asymmetric", x)(x, n, group)


def mx(
    x: Tensor, mantissa: int, least: int, largest: float, group: int, at: At | None = None
) -> Tensor:
    """`blocks.mx`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_mx(x, mantissa, least, largest, group, _listed(at))
    return kernel("mx", x)(x, mantissa, least, largest, group, at)


def nvfp4(x: Tensor, group: int, outer: int | None, floored: bool, at: At | None = None) -> Tensor:
    """`blocks.nvfp4`. Raises: as `fake_quantize`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.fake_quant_nvfp4(x, group, outer, floored, _listed(at))
    return kernel("nvfp4", x)(x, group, outer, floored, at)


def rotated(x: Tensor, block: int) -> Tensor:
    """`hadamard.rotated`."""
    if torch.compiler.is_compiling() and not _traced(x):
        return opaque.hadamard_rotate(x, block)
    return kernel("rotated", x)(x, block)


def _traced(x: Tensor) -> bool:
    return TRACED and x.is_cpu and x.dtype == torch.float32


def _listed(at: At | None) -> list[int] | None:
    return None if at is None else list(at)
