"""What every number format answers. A format is which numbers a tensor may hold; torch comes late."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from precisionlaws.config import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    Matrix = tuple[str, int, int]  # name, out, in


@dataclass(frozen=True, kw_only=True)
class Format(Spec):
    """Base of `conf/format`. A subclass has `bits`, as a field or, when fixed, as a class attribute.

    `scales` and `round` are the one place where scales and roundings are computed: training, PTQ and
    packing all call them.
    """

    if TYPE_CHECKING:  # at run time a name here would become the default of the field
        bits: float  # bits per value by the format's name; 16 means not quantized

    @property
    def off(self) -> bool:
        """True when values pass unchanged."""
        return self.bits == 16

    def bits_effective(self, matrices: "Iterable[Matrix]") -> float:
        """Bits per weight over (name, out, in) matrices, their stored scales included."""
        raise NotImplementedError

    def fits(self, length: int, what: str) -> None:
        """Raise ConfigError if vectors of `length` along the reduced axis cannot be quantized."""

    def scales(self, x: "Tensor") -> "Tensor":
        """One scale per group of `x`, in computing precision."""
        raise NotImplementedError

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        """The nearest numbers of the format under given scales: same shape as `x`."""
        raise NotImplementedError

    def quantizer(self) -> "Callable[[Tensor], Tensor]":
        """x -> its nearest numbers in the format (same shape and dtype), with a gradient."""
        raise NotImplementedError
