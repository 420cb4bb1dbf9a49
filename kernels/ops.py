"""Which code computes a kernel: decided here, by the device of the tensor and PRECISIONLAWS_KERNELS.

    auto       Triton for CUDA tensors where triton imports, plain torch otherwise; fp64 always in torch
    torch      always kernels/reference.py
    triton     Triton, or an error
    interpret  Triton's interpreter, on a CPU: for tests; wants TRITON_INTERPRET=1 in the environment

The variable is read once per process. All give the same bits, so a result does not depend on it; what
was in effect is recorded all the same (`backend`). Triton is imported when a kernel is first asked for.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import reference

VARIABLE = "PRECISIONLAWS_KERNELS"
CHOICES = ("auto", "torch", "triton", "interpret")

# Inductor makes one loop of the reference on a CPU, with the same bits (1.4 instead of 5 times a clone of
# 2048²), but drops the rounding to bf16 between two quantizers, and divides approximately on a GPU.
TRACED = os.environ.get(VARIABLE, "auto") in ("auto", "torch")

FakeQuantize = Callable[[Tensor, float | Tensor, int | None], Tensor]


def fake_quantize(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
    """`reference.fake_quantize` by the backend in effect. Its gradient: quant/estimators.py.

    Raises: ValueError if the last axis is no multiple of `group`, or as `backend`.
    """
    if torch.compiler.is_compiling():
        if TRACED and x.is_cpu and x.dtype == torch.float32:
            return reference.fake_quantize(x, q_max, group)
        members = q_max if isinstance(q_max, Tensor) else None
        return fake_quant_int(x, 0.0 if members is not None else float(q_max), group, members)
    device = "cpu" if x.is_cpu else x.device.type  # 0.4 us faster than x.device.type
    return _implementation(device)(x, q_max, group)


def backend(device: str | torch.device) -> str:
    """What computes on a device: "torch", "triton" or "interpret".

    Raises: ValueError if what PRECISIONLAWS_KERNELS asks for is unknown or cannot be had.
    """
    return _backend(torch.device(device).type)


@torch.library.custom_op("precisionlaws::fake_quant_int", mutates_args=())
def fake_quant_int(
    x: Tensor, q_max: float, group: int | None, members: Tensor | None = None
) -> Tensor:
    """The same, opaque to torch.compile: where tracing would not keep the bits of eager mode.

    members: q_max per member; `q_max` is not used then.
    """
    return _implementation(x.device.type)(x, q_max if members is None else members, group)


@fake_quant_int.register_fake
def _(x: Tensor, q_max: float, group: int | None, members: Tensor | None = None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return grad, None, None, None  # straight through: quant/estimators.py


fake_quant_int.register_autograd(_backward)


@functools.cache  # looked up on every call: 0.1 us against 15 us for the smallest tensor
def _implementation(device: str) -> FakeQuantize:
    if _backend(device) == "torch":
        return reference.fake_quantize
    from precisionlaws.kernels import fake_quant

    if _asked() != "auto":
        return fake_quant.fake_quantize
    return _but_fp64(fake_quant.fake_quantize)


def _but_fp64(kernel: FakeQuantize) -> FakeQuantize:
    """fp64 is for checks of the mathematics, which the reference defines."""

    def run(x: Tensor, q_max: float | Tensor, group: int | None) -> Tensor:
        chosen = reference.fake_quantize if x.dtype == torch.float64 else kernel
        return chosen(x, q_max, group)

    return run


@functools.cache
def _backend(device: str) -> str:
    asked = _asked()
    if asked == "torch" or (asked == "auto" and (device != "cuda" or not _has_triton())):
        return "torch"
    if not _has_triton():
        raise ValueError(f"{VARIABLE}={asked}, but triton is not installed; pip install triton")
    interpreted = _interpreted()
    if asked == "interpret":
        if not interpreted:
            raise ValueError(
                f"{VARIABLE}=interpret, but triton was imported without its interpreter; "
                "set TRITON_INTERPRET=1 in the environment before Python starts"
            )
        return "interpret"
    if interpreted:
        raise ValueError(
            f"{VARIABLE}={asked}, but TRITON_INTERPRET is set, which would run GPU kernels in Python; "
            f"unset it, or set {VARIABLE}=interpret"
        )
    if device != "cuda":
        missing = "this tensor is on" if torch.cuda.is_available() else "torch sees no GPU, only"
        raise ValueError(
            f"{VARIABLE}=triton, but {missing} {device}; use {VARIABLE}=auto, or a CUDA device"
        )
    return "triton"


def _asked() -> str:
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {asked}")
    return asked


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Fixed when triton is imported, whatever the variable says later."""
    from precisionlaws.kernels import fake_quant

    return fake_quant.INTERPRETED
