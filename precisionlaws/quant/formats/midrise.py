"""2^b numbers without zero, 1 to 8 bits: odd multiples of half a step, as in QuEST."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ConfigError
from precisionlaws.quant.formats.scaled import Scaled

if TYPE_CHECKING:
    from torch import Tensor

    from precisionlaws.kernels.numbers import Type


@dataclass(frozen=True, kw_only=True)
class Midrise(Scaled):
    """±s/2, ±3s/2 ...: all 2^b codes, and balanced. Definition: kernels/scaled.py."""

    SHORT: ClassVar[str] = "midrise"
    MIDRISE: ClassVar[bool] = True
    bits: int  # 1 to 8; 16 = off

    def rules(self) -> None:
        if self.bits != 16 and not 1 <= self.bits <= 8:
            raise ConfigError(f"bits must be 1 to 8, or 16 for off, got {self.bits}")
        if self.scale in ("absmean", "learned") or self.rounding != "nearest":
            raise ConfigError(
                "a midrise format has scale=absmax, gaussian, mse or power_of_two and rounding=nearest, "
                f"got scale={self.scale} and rounding={self.rounding}"
            )
        super().rules()

    def type(self) -> "Type":
        """Steps of 1, up to `largest`; shifted by half a step."""
        return self.bits, self.bits, (2**self.bits - 1) / 2

    def magnitudes(self) -> tuple[float, ...]:
        return tuple(i + 0.5 for i in range(2 ** (self.bits - 1)))

    def scales(self, x: "Tensor") -> "Tensor":
        s = self.raw_scales(x)  # 0 for zeros, which no other scale keeps
        return s + s * 0  # NaN, not infinity, which half a step of would be infinite too
