"""Which code computes a kernel: decided here, by the device of the tensor and PRECISIONLAWS_KERNELS.

    auto       Triton for CUDA tensors where triton imports, plain torch otherwise; fp64 always in torch
    torch      always plain torch, which defines the results
    triton     Triton, or an error
    interpret  Triton's interpreter, on a CPU: for tests; wants TRITON_INTERPRET=1 in the environment

The variable is read once per process. All give the same bits (but those of the rotation on a GPU, whose
sums are in another order), so a result does not depend on it; what was in effect is recorded all the same
(`backend`). Triton is imported when a kernel is first asked for.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from precisionlaws.kernels import asymmetric, blocks, hadamard, reference, scaled

VARIABLE = "PRECISIONLAWS_KERNELS"
CHOICES = ("auto", "torch", "triton", "interpret")

Function = Callable[..., Any]
KERNELS: dict[
    str, tuple[Function, str]
] = {  # name: the definition in torch, and the kernel in Triton
    "int": (reference.fake_quantize, "fake_quant.fake_quantize"),
    "type": (scaled.fake_quantize, "fake_types.fake_quantize"),
    "members": (scaled.fake_quantize_members, "fake_types.fake_quantize_members"),
    "rounded": (scaled.rounded, "fake_types.rounded"),
    "within": (scaled.rounded_within, "fake_types.rounded_within"),
    "asymmetric": (asymmetric.fake_quantize, "fake_types.asymmetric"),
    "mx": (blocks.mx, "fake_types.mx"),
    "nvfp4": (blocks.nvfp4, "fake_nvfp4.nvfp4"),
    "rotated": (hadamard.rotated, "fake_hadamard.rotated"),
}


def backend(device: str | torch.device) -> str:
    """What computes on a device: "torch", "triton" or "interpret".

    Raises: ValueError if what PRECISIONLAWS_KERNELS asks for is unknown or cannot be had.
    """
    return _backend(torch.device(device).type)


def kernel(name: str, x: Tensor) -> Function:
    """What computes the kernel of that name (KERNELS) for a tensor."""
    device = "cpu" if x.is_cpu else x.device.type  # 0.4 us faster than x.device.type
    return _implementation(name, device)


@functools.cache  # looked up on every call: 0.1 us against 15 us for the smallest tensor
def _implementation(name: str, device: str) -> Function:
    plain, kernel = KERNELS[name]
    if device == "meta" or _backend(device) == "torch":  # a shape is all that is asked of meta
        return plain
    module, _, function = kernel.partition(".")
    compiled = getattr(import_module(f"precisionlaws.kernels.{module}"), function)
    return compiled if asked() != "auto" else _but_fp64(compiled, plain)


def _but_fp64(kernel: Function, plain: Function) -> Function:
    """fp64 is for checks of the mathematics, which the plain function defines."""

    def run(x: Tensor, *rest: Any) -> Any:
        return (plain if x.dtype == torch.float64 else kernel)(x, *rest)

    return run


@functools.cache
def _backend(device: str) -> str:
    wanted = asked()
    if wanted == "torch" or (wanted == "auto" and (device != "cuda" or not _has_triton())):
        return "torch"
    if not _has_triton():
        raise ValueError(f"{VARIABLE}={wanted}, but triton is not installed; pip install triton")
    interpreted = _interpreted()
    if wanted == "interpret":
        if not interpreted:
            raise ValueError(
                f"{VARIABLE}=interpret, but triton was imported without its interpreter; "
                "set TRITON_INTERPRET=1 in the environment before Python starts"
            )
        return "interpret"
    if interpreted:
        raise ValueError(
            f"{VARIABLE}={wanted}, but TRITON_INTERPRET is set, which would run GPU kernels in Python; "
            f"unset it, or set {VARIABLE}=interpret"
        )
    if device != "cuda":
        missing = "this tensor is on" if torch.cuda.is_available() else "torch sees no GPU, only"
        raise ValueError(
            f"{VARIABLE}=triton, but {missing} {device}; use {VARIABLE}=auto, or a CUDA device"
        )
    return "triton"


def asked() -> str:
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {wanted}")
    return wanted


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    """Fixed when triton is imported, whatever the variable says later."""
    from precisionlaws.kernels import fake_quant

    return fake_quant.INTERPRETED
