"""What every number format answers. A format is which numbers a tensor may hold; torch comes late."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ConfigError, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from precisionlaws.quant.noise import Noise

    Matrix = tuple[str, int, int]  # name, out, in

SCALE_BITS = 16  # a stored scale counts as fp16; training computes with fp32 scales


@dataclass(frozen=True, kw_only=True)
class Format(Spec):
    """Base of `conf/format`. A subclass has `bits`, as a field or, when fixed, as a class attribute.

    `scales` and `round` are the one place where scales and roundings are computed: training, PTQ and
    packing all call them.
    """

    ODD: ClassVar[bool] = True  # Q(-x) = -Q(x)

    if TYPE_CHECKING:  # at run time a name here would become the default of the field
        bits: float  # bits per value by the format's name; 16 means not quantized

    @property
    def off(self) -> bool:
        """True when values pass unchanged."""
        return self.bits == 16

    @property
    def whole_tensor(self) -> str:
        """The setting by which a scale spans a whole tensor, if one does: "granularity=tensor"."""
        return ""

    @property
    def learns(self) -> bool:
        """Whether its scales are parameters."""
        return False

    def normal(self) -> dict[str, object] | None:
        return None if self.off else super().normal()

    def stored(self, rows: int, length: int) -> Mapping[str, float]:
        """Bits of every part of the payload of a matrix: its codes, their scales ..."""
        raise NotImplementedError

    def bits_effective(self, matrices: "Iterable[Matrix]") -> float:
        """Bits per weight over (name, out, in) matrices, their stored scales included."""
        if self.off:
            return 16.0
        sizes = [(out * width, sum(self.stored(out, width).values())) for _, out, width in matrices]
        return sum(bits for _, bits in sizes) / sum(n for n, _ in sizes)

    def fits(self, length: int, what: str) -> None:
        """Raise ConfigError if vectors of `length` along the reduced axis cannot be quantized."""

    def scales(self, x: "Tensor") -> "Tensor":
        """One scale per group of `x`, in computing precision."""
        raise NotImplementedError

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        """The nearest numbers of the format under given scales: same shape as `x`."""
        raise NotImplementedError

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        """x -> its numbers in the format (same shape and dtype), with a gradient.

        noise: of stochastic rounding, which is for training: without a gradient, the nearest numbers.
        """
        raise NotImplementedError

    def stacked(self, members: "Sequence[Format]") -> "Callable[[Tensor], Tensor]":
        """The quantizer of (E, ...) tensors whose index e is quantized by `members[e]`, some of them off.

        Equal members at once, others one after the other; a format that can do better says so.
        `self` is one that is on.
        """
        import torch

        if all(f == self for f in members) and not self.whole_tensor:
            return self.quantizer()
        quantizers = [f.quantizer() for f in members]
        return lambda x: torch.stack([q(v) for q, v in zip(quantizers, x, strict=True)])


def group_fits(group: int, length: int, what: str) -> None:
    """Raises: ConfigError."""
    if length % group:
        raise ConfigError(f"group must divide the {length} values of {what}, got {group}")


def fixed_width(what: str, place: str, others: str = "") -> str:
    """The end of the error for `bits` of a format that has no choice of them."""
    place = place or "quant.weights"
    other = f" by format@{place}={others}, or" if others else ""
    return (
        f": {what}; choose another width{other} by format@{place}=int {place}.bits=... (16 is off)"
    )
