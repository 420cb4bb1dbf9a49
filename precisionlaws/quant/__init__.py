"""Quantization in training: formats, gradient estimators, and their attachment to a model.

`fake_quantize` and `attach` import torch on first use; the Specs never do. (No module here bears the
name of a public function: importing a module called `attach` would hide the function.)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precisionlaws.quant.attachment import attach, fake_quantize

__all__ = ["attach", "fake_quantize"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from precisionlaws.quant import attachment

    return getattr(attachment, name)
