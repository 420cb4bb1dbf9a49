"""Fake-quantization kernels: tensors and numbers only, never formats, roles or models.

`backend` and `fake_quantize` import torch on first use, and triton where a GPU wants it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precisionlaws.kernels.backends import backend
    from precisionlaws.kernels.ops import fake_quantize

__all__ = ["backend", "fake_quantize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from precisionlaws.kernels import backends, ops

    return getattr(backends if name == "backend" else ops, name)
