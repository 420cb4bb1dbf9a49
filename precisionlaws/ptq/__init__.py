"""Post-training quantization of weights: one file per method.

`apply` and `quantize_model` import torch on first use; the Specs never do.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precisionlaws.ptq.application import apply, quantize_model

__all__ = ["apply", "quantize_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from precisionlaws.ptq import application

    return getattr(application, name)
