"""MX (OCP Microscaling v1.0): MXFP8, MXFP6, MXFP4 and MXINT8, a power of two per block of 32."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import neutral, ranged
from precisionlaws.quant.formats.base import Format, fixed_width, group_fits
from precisionlaws.quant.formats.scaled import Rounding

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from precisionlaws.kernels.numbers import Type
    from precisionlaws.quant.noise import Noise

ELEMENTS = {  # exponent bits, mantissa bits, what the top codes mean
    "e4m3": (4, 3, "nan"),
    "e5m2": (5, 2, "ieee"),
    "e3m2": (3, 2, "none"),
    "e2m3": (2, 3, "none"),
    "e2m1": (2, 1, "none"),
}


@dataclass(frozen=True, kw_only=True)
class Mx(Format):
    """Definition: kernels/blocks.py."""

    SHORT: ClassVar[str] = "mx"
    element: Literal["e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "int8"]
    granularity: Literal["group"]
    group: int = ranged(1)  # values per scale; 32 in the standard
    estimator: Literal["ste"]
    rounding: Rounding = neutral("nearest")

    @property
    def bits(self) -> int:  # type: ignore[override]
        return 8 if self.element == "int8" else 1 + sum(ELEMENTS[self.element][:2])

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        what, others = "the element of an MX format says its bits", "mxfp8|mxfp6|mxfp4|mxint8"
        return fixed_width(what, place, others) if key == "bits" else ""

    def type(self) -> "Type":
        """The number type of the elements, as the kernels take it; int8: k / 64 with |k| <= 127."""
        from precisionlaws.kernels.numbers import float_type

        return (6, 0, 127 / 64) if self.element == "int8" else float_type(*ELEMENTS[self.element])

    def stored(self, rows: int, length: int) -> Mapping[str, float]:
        return {"codes": self.bits * rows * length, "scales": 8 * rows * (length // self.group)}

    def fits(self, length: int, what: str) -> None:
        group_fits(self.group, length, what)

    def scales(self, x: "Tensor") -> "Tensor":
        from precisionlaws.kernels import blocks

        return blocks.mx_scales(x, self.type()[2], self.group)

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        from precisionlaws.kernels import ops

        return ops.rounded(x, scales, *self.type(), self.group)

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.kernels import ops
        from precisionlaws.quant.estimators import straight_through
        from precisionlaws.quant.noise import Noise

        numbers, group, source = self.type(), self.group, noise or Noise()

        def nearest(x: "Tensor") -> "Tensor":
            return ops.mx(x, *numbers, group)

        def stochastic(x: "Tensor") -> "Tensor":
            return ops.mx(x, *numbers, group, source.draw())

        return straight_through(nearest if self.rounding == "nearest" else stochastic, nearest)
