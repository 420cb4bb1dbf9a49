"""NVFP4: E2M1 values, an E4M3 scale per block of 16, and an fp32 scale over those."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import neutral, ranged
from precisionlaws.quant.formats.base import Format, fixed_width, group_fits
from precisionlaws.quant.formats.scaled import Rounding

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from precisionlaws.quant.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Nvfp4(Format):
    """Definition: kernels/blocks.py."""

    SHORT: ClassVar[str] = "nvfp4"
    bits: ClassVar[float] = 4  # type: ignore[misc]
    granularity: Literal["group"]
    group: int = ranged(1)  # values per E4M3 scale; 16 in the format
    outer: Literal["tensor", "row", "none"]  # what an fp32 scale spans
    scale: Literal["nvidia", "torchao"]
    estimator: Literal["ste"]
    rounding: Rounding = neutral("nearest")

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        return fixed_width("NVFP4 has 4 bits", place, "mxfp6|fp4") if key == "bits" else ""

    @property
    def whole_tensor(self) -> str:
        return "outer=tensor" if self.outer == "tensor" else ""

    def stored(self, rows: int, length: int) -> Mapping[str, float]:
        return {
            "codes": 4 * rows * length,
            "scales": 8 * rows * (length // self.group),
            "outer": 32 * {"tensor": 1, "row": rows, "none": 0}[self.outer],
        }

    def fits(self, length: int, what: str) -> None:
        group_fits(self.group, length, what)

    def scales(self, x: "Tensor") -> "Tensor":
        """(..., C / group, 2): block scale and outer scale of every block."""
        import torch

        from precisionlaws.kernels import blocks

        t = blocks.nvfp4_outer(x, self._outer(x))
        b = blocks.nvfp4_scales(x, t, self.group, self.scale == "torchao")
        return torch.stack((b, t.expand_as(b)), -1)

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        from precisionlaws.kernels import blocks

        b, t = scales.unbind(-1)
        return blocks.nvfp4_rounded(x, b, t, self.group, self.scale == "torchao")

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.kernels import ops
        from precisionlaws.quant.estimators import straight_through
        from precisionlaws.quant.noise import Noise

        group, outer, floored = self.group, self._outer, self.scale == "torchao"
        source = noise or Noise()

        def nearest(x: "Tensor") -> "Tensor":
            return ops.nvfp4(x, group, outer(x), floored)

        def stochastic(x: "Tensor") -> "Tensor":
            return ops.nvfp4(x, group, outer(x), floored, source.draw())

        return straight_through(nearest if self.rounding == "nearest" else stochastic, nearest)

    def _outer(self, x: "Tensor") -> int | None:
        """Values per fp32 scale, as the kernels take it."""
        return {"tensor": None, "row": x.shape[-1], "none": 0}[self.outer]
