"""Symmetric integers of narrow range, 3 to 15 bits: values q·s with |q| <= 2^(b-1) - 1."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, ranged
from precisionlaws.quant.formats.base import Format

if TYPE_CHECKING:
    from torch import Tensor

    from precisionlaws.quant.formats.base import Matrix

SCALE_BITS = 16  # a stored scale counts as fp16; training computes with fp32 scales


@dataclass(frozen=True, kw_only=True)
class Int(Format):
    """The maximum of each group is mapped to the largest code. Definition: kernels/reference.py."""

    SHORT: ClassVar[str] = "int"
    bits: int  # 3 to 15; 16 = off
    granularity: Literal["tensor", "row", "group"]  # row: one scale per vector of the reduced axis
    group: int = ranged(1)  # values per scale, with granularity=group
    scale: Literal["absmax"]
    estimator: Literal["ste"]

    def rules(self) -> None:
        if self.bits != 16 and not 3 <= self.bits <= 15:
            raise ConfigError(
                f"bits must be 3 to 15, or 16 for off, got {self.bits} "
                "(int2 and ternary are formats of their own)"
            )

    def inactive(self) -> set[str]:
        return set() if self.granularity == "group" else {"group"}

    def normal(self) -> dict[str, object] | None:
        return None if self.off else super().normal()

    def bits_effective(self, matrices: "Iterable[Matrix]") -> float:
        if self.off:
            return 16.0
        sizes = [(out * width, self._scale_count(out, width)) for _, out, width in matrices]
        return self.bits + SCALE_BITS * sum(n for _, n in sizes) / sum(n for n, _ in sizes)

    def _scale_count(self, rows: int, length: int) -> int:
        if self.granularity == "tensor":
            return 1
        return rows * (length // self.group if self.granularity == "group" else 1)

    def fits(self, length: int, what: str) -> None:
        if not self.off and self.granularity == "group" and length % self.group:
            raise ConfigError(f"group must divide the {length} values of {what}, got {self.group}")

    def scales(self, x: "Tensor") -> "Tensor":
        from precisionlaws.kernels import reference

        return reference.scale(x, self._q_max, self._length(x))

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        from precisionlaws.kernels import reference

        group = self._length(x)
        return reference.values(reference.codes(x, scales, self._q_max, group), scales, group)

    def quantizer(self) -> "Callable[[Tensor], Tensor]":
        from precisionlaws import kernels
        from precisionlaws.quant.estimators import straight_through

        if self.off:
            return lambda x: x
        q_max, length, fake_quantize = self._q_max, self._length, kernels.fake_quantize
        return straight_through(lambda x: fake_quantize(x, q_max, length(x)))

    @property
    def _q_max(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def _length(self, x: "Tensor") -> int | None:
        """Values per scale, as the kernels take it: None is the whole tensor."""
        if self.granularity == "tensor":
            return None
        return self.group if self.granularity == "group" else x.shape[-1]
