"""Three numbers, -s, 0 and s: log2 3 = 1.58 bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.quant.formats.base import fixed_width
from precisionlaws.quant.formats.scaled import Scaled

if TYPE_CHECKING:
    from precisionlaws.kernels.numbers import Type


@dataclass(frozen=True, kw_only=True)
class Ternary(Scaled):
    """Integers of narrow range at 2 bits. Stored as five codes in a byte, because 3^5 = 243."""

    SHORT: ClassVar[str] = "ternary"
    bits: ClassVar[float] = 1.58  # type: ignore[misc]

    def type(self) -> "Type":
        from precisionlaws.kernels.numbers import int_type

        return int_type(1)

    def stored(self, rows: int, length: int) -> Mapping[str, float]:
        return {**super().stored(rows, length), "codes": 8 * -(-rows * length // 5)}

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        what = "a ternary number has log2 3 = 1.58 bits"
        return fixed_width(what, place, "int2") if key == "bits" else ""
