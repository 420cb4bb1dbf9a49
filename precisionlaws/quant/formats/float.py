"""Floats of 3 to 12 bits under scales of computing precision: FP8, FP6, FP4 and other layouts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from precisionlaws.config import ConfigError, ranged
from precisionlaws.quant.formats.scaled import Scaled

if TYPE_CHECKING:
    from precisionlaws.kernels.numbers import Type

# Exponent bits by bits: E2M0, E3M0, E3M1, E3M2, E4M2, E5M2 and E5M6 are the layouts of Kumar et al. 2024,
# appendix N (at 5 bits it prints E4M1, which has 6); 9 to 11 bits, which it has not, keep its exponent.
EXPONENT = {3: 2, 4: 3, 5: 3, 6: 3, 7: 4} | dict.fromkeys(range(8, 13), 5)
OCP = {(4, 3): "nan", (5, 2): "ieee"}  # what the top codes mean in OFP8


@dataclass(frozen=True, kw_only=True)
class Float(Scaled):
    """The maximum of each group is mapped to the largest number, beyond which values saturate.

    A sign, `exponent` bits with bias 2^(exponent - 1) - 1, the rest mantissa; subnormals.
    """

    SHORT: ClassVar[str] = "float"
    bits: int  # 3 to 12; 16 = off
    exponent: int | None = ranged(1, 8)  # null = the layout of Kumar et al.
    specials: Literal["ocp", "none", "nan", "ieee"]  # what the top codes are, if not numbers

    def rules(self) -> None:
        if self.bits != 16 and not 3 <= self.bits <= 12:
            raise ConfigError(f"bits must be 3 to 12, or 16 for off, got {self.bits}")
        if self.exponent is not None and not self.off and self.exponent >= self.bits:
            raise ConfigError(
                f"exponent must be 1 to {self.bits - 1} with bits={self.bits}, got {self.exponent}"
            )
        if not self.off and self.layout[2] == "ieee" and self.layout[0] == 1:
            raise ConfigError(
                "specials must not be ieee with exponent=1: no number would be normal"
            )

    @property
    def layout(self) -> tuple[int, int, str]:
        """Bits of exponent and mantissa, and what the top codes mean."""
        exponent = self.exponent or EXPONENT[self.bits]
        mantissa = self.bits - 1 - exponent
        ocp = OCP.get((exponent, mantissa), "none")
        return exponent, mantissa, ocp if self.specials == "ocp" else self.specials

    def acting(self) -> dict[str, Any]:
        fields = super().acting()
        if self.off:
            return fields
        del fields["bits"]  # they follow
        return fields | dict(zip(("exponent", "mantissa", "specials"), self.layout, strict=True))

    def type(self) -> "Type":
        from precisionlaws.kernels.numbers import float_type

        return float_type(*self.layout)
