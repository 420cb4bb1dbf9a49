"""The kernels as operators that torch.compile does not look into: for where tracing would not keep the bits
of eager mode. Their gradients pass straight through, as quant/estimators.py defines them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels.backends import kernel


@torch.library.custom_op("precisionlaws::fake_quant_int", mutates_args=())
def fake_quant_int(
    x: Tensor, q_max: float, group: int | None, members: Tensor | None = None
) -> Tensor:
    """members: q_max per member; `q_max` is not used then."""
    return kernel("int", x)(x, q_max if members is None else members, group)


@torch.library.custom_op("precisionlaws::fake_quant_type", mutates_args=())
def fake_quant_type(
    x: Tensor, mantissa: int, least: int, largest: float, group: int | None, at: Sequence[int] | None = None
) -> Tensor:  # fmt: skip
    return kernel("type", x)(x, mantissa, least, largest, group, at)


@torch.library.custom_op("precisionlaws::fake_quant_members", mutates_args=())
def fake_quant_members(x: Tensor, types: Tensor, group: int | None) -> Tensor:
    return kernel("members", x)(x, types, group)


@torch.library.custom_op("precisionlaws::fake_quant_given", mutates_args=())
def fake_quant_given(
    x: Tensor, s: Tensor, mantissa: int, least: int, largest: float, group: int | None,
    at: Sequence[int] | None = None, midrise: bool = False,
) -> Tensor:  # fmt: skip
    return kernel("rounded", x)(x, s, mantissa, least, largest, group, at, midrise)


@torch.library.custom_op("precisionlaws::fake_quant_within", mutates_args=())
def fake_quant_within(
    x: Tensor, s: Tensor, mantissa: int, least: int, largest: float, group: int | None, bound: float,
    at: Sequence[int] | None = None, midrise: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return kernel("within", x)(x, s, mantissa, least, largest, group, bound, at, midrise)


@torch.library.custom_op("precisionlaws::fake_quant_asymmetric", mutates_args=())
def fake_quant_asymmetric(x: Tensor, n: float, group: int | None) -> Tensor:
    return kernel("asymmetric", x)(x, n, group)


@torch.library.custom_op("precisionlaws::fake_quant_mx", mutates_args=())
def fake_quant_mx(
    x: Tensor, mantissa: int, least: int, largest: float, group: int, at: Sequence[int] | None = None
) -> Tensor:  # fmt: skip
    return kernel("mx", x)(x, mantissa, least, largest, group, at)


@torch.library.custom_op("precisionlaws::fake_quant_nvfp4", mutates_args=())
def fake_quant_nvfp4(
    x: Tensor, group: int, outer: int | None, floored: bool, at: Sequence[int] | None = None
) -> Tensor:
    return kernel("nvfp4", x)(x, group, outer, floored, at)


@torch.library.custom_op("precisionlaws::hadamard_rotate", mutates_args=())
def hadamard_rotate(x: Tensor, block: int) -> Tensor:
    return kernel("rotated", x)(x, block)


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _straight_through(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return grad, *[None] * ctx.others


def _count(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.others = len(inputs) - 1


for op in (
    fake_quant_int, fake_quant_type, fake_quant_members, fake_quant_given, fake_quant_asymmetric, fake_quant_mx,
    fake_quant_nvfp4,
):  # fmt: skip
    op.register_fake(_like)
    op.register_autograd(_straight_through, setup_context=_count)


@fake_quant_within.register_fake
def _(x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return _like(x), torch.empty(x.shape, dtype=torch.bool, device=x.device)


def _keep_mask(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.others = len(inputs) - 1
    ctx.save_for_backward(output[1])


def _masked(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    return grad * ctx.saved_tensors[0], *[None] * ctx.others


fake_quant_within.register_autograd(_masked, setup_context=_keep_mask)
hadamard_rotate.register_fake(_like)


def _keep_block(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.block = inputs[1]


def _rotate_back(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return hadamard_rotate(grad, ctx.block), None


hadamard_rotate.register_autograd(_rotate_back, setup_context=_keep_block)
