"""Number types under scales of computing precision: what integers and floats have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from precisionlaws.config import ranged
from precisionlaws.quant.formats.base import SCALE_BITS, Format, group_fits

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from precisionlaws.kernels.numbers import Type


@dataclass(frozen=True, kw_only=True)
class Grouped(Format):
    """One scale per tensor, row or group."""

    granularity: Literal["tensor", "row", "group"]  # row: one scale per vector of the reduced axis
    group: int = ranged(1)  # values per scale, with granularity=group

    def inactive(self) -> set[str]:
        return set() if self.granularity == "group" else {"group"}

    @property
    def whole_tensor(self) -> str:
        return "granularity=tensor" if self.granularity == "tensor" and not self.off else ""

    def stored(self, rows: int, length: int) -> Mapping[str, float]:
        groups = {"tensor": 1, "row": rows, "group": rows * (length // self.group)}
        return {"codes": self.bits * rows * length} | self.side(groups[self.granularity])

    def side(self, groups: int) -> dict[str, float]:
        """Bits of what is stored per group."""
        return {"scales": SCALE_BITS * groups}

    def fits(self, length: int, what: str) -> None:
        if not self.off and self.granularity == "group":
            group_fits(self.group, length, what)

    def length(self, x: "Tensor") -> int | None:
        """Values per scale, as the kernels take it: None is the whole tensor."""
        if self.granularity == "tensor":
            return None
        return self.group if self.granularity == "group" else x.shape[-1]


@dataclass(frozen=True, kw_only=True)
class Scaled(Grouped):
    """The maximum of each group is mapped to the largest number. Definition: kernels/scaled.py."""

    scale: Literal["absmax"]
    estimator: Literal["ste"]

    def type(self) -> "Type":
        """The number type, as the kernels take it."""
        raise NotImplementedError

    def scales(self, x: "Tensor") -> "Tensor":
        from precisionlaws.kernels import reference

        return reference.scale(x, self.type()[2], self.length(x))

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        from precisionlaws.kernels import scaled

        return scaled.rounded(x, scales, *self.type(), self.length(x))

    def quantizer(self) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.kernels import scaled
        from precisionlaws.quant.estimators import straight_through

        if self.off:
            return lambda x: x
        numbers, length = self.type(), self.length
        return straight_through(lambda x: scaled.fake_quantize(x, *numbers, length(x)))
