"""Number types under scales of computing precision: what integers and floats have in common."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from precisionlaws.config import ConfigError, neutral, ranged
from precisionlaws.quant.formats.base import SCALE_BITS, Format, group_fits

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from precisionlaws.kernels.numbers import Type
    from precisionlaws.quant.noise import Draw, Noise

Granularity = Literal["tensor", "row", "group"]
Scale = Literal["absmax", "absmean", "gaussian", "mse", "power_of_two", "learned"]
Estimator = Literal["ste", "clip", "trust", "lsq"]
Rounding = Literal["nearest", "stochastic"]
CLIPS_NOTHING = ("absmax", "power_of_two")
ABSMEAN = {1.0: 1.0, 3.0: 0.75}  # of mean|x|, by the largest code: BitNet b1.58; measured at 3 bits


@dataclass(frozen=True, kw_only=True)
class Grouped(Format):
    """One scale per tensor, row or group."""

    granularity: Granularity  # row: one scale per vector of the reduced axis
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
    """Numbers of a type, times a scale by one of the rules of kernels/scales.py."""

    scale: Scale
    estimator: Estimator
    rounding: Rounding = neutral("nearest")

    def rules(self) -> None:
        if self.off:
            return
        if (self.scale == "learned") != (self.estimator == "lsq"):
            raise ConfigError(
                "scale=learned and estimator=lsq go together, "
                f"got scale={self.scale} and estimator={self.estimator}"
            )
        if self.scale == "learned" and self.rounding == "stochastic":
            raise ConfigError("rounding must be nearest with scale=learned, got stochastic")

    @property
    def learns(self) -> bool:
        return self.scale == "learned" and not self.off

    @property
    def whole_tensor(self) -> str:
        return "" if self.learns else super().whole_tensor  # learned: of no tensor in particular

    def acting(self) -> dict[str, Any]:
        fields = super().acting()
        if self.scale in CLIPS_NOTHING:  # the estimators are one
            fields["estimator"] = "ste"
        return fields

    def type(self) -> "Type":
        """The number type, as the kernels take it."""
        raise NotImplementedError

    def magnitudes(self) -> tuple[float, ...]:
        """The numbers that are not negative, at scale 1."""
        from precisionlaws.kernels import numbers

        return tuple(numbers.numbers(*self.type()).tolist())

    @property
    def largest(self) -> float:
        return self.type()[2]

    @property
    def bound(self) -> float:
        """Beyond it, times the scale, gradients are cut."""
        if self.estimator != "trust":
            return self.largest
        mantissa, least, largest = self.type()
        return largest + 2.0 ** (max(math.frexp(largest)[1] - 1, least) - mantissa) / 2

    def scales(self, x: "Tensor") -> "Tensor":
        s = self.raw_scales(x)
        return s.masked_fill(s == 0, 1.0)

    def raw_scales(self, x: "Tensor") -> "Tensor":
        """By the rule, 0 for zeros. A learned scale starts here (Esser et al. 2020, section 2.1)."""
        from precisionlaws.kernels import scales

        group = self.length(x)
        match self.scale:
            case "absmax":
                return scales.absmax(x, self.largest, group)
            case "power_of_two":
                return scales.power_of_two(x, self.largest, group)
            case "absmean":
                return scales.absmean(x, ABSMEAN[self.largest], group)
            case "gaussian":
                return scales.gaussian(x, self.gaussian_step, group)
            case "mse":
                return scales.searched(x, self.largest, group, self.rounded)
            case "learned":
                return scales.absmean(x, 2 / math.sqrt(self.largest), group)

    @functools.cached_property
    def gaussian_step(self) -> float:
        from precisionlaws.kernels import scales

        return scales.gaussian_step(self.magnitudes())

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        return self.rounded(x, scales)

    def rounded(self, x: "Tensor", scales: "Tensor", draw: "Draw | None" = None) -> "Tensor":
        """draw: rounds stochastically, with its numbers."""
        from precisionlaws.kernels import scaled

        u = None if draw is None else draw(x)
        return scaled.rounded(x, scales, *self.type(), self.length(x), u)

    def quantized(self, x: "Tensor", draw: "Draw | None" = None) -> "Tensor":
        """`x` under its own scales, without a gradient."""
        from precisionlaws.kernels.pieces import by_pieces

        def quantize(part: "Tensor") -> "Tensor":
            return self.rounded(part, self.scales(part), draw)

        return by_pieces(quantize, x, self.length(x))

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.quant import estimators

        if self.off:
            return lambda x: x
        if self.scale == "learned":
            return lambda x: self.learned(x, self.scales(x.detach()))
        nearest = quantize = self.quantized
        if self.rounding == "stochastic":
            quantize = self.stochastic(noise)
        if self.estimator == "ste" or self.scale in CLIPS_NOTHING:
            return estimators.straight_through(quantize, nearest)
        return estimators.within(
            quantize,
            lambda x: estimators.inside(x, self.scales(x), self.bound, self.length(x)),
            nearest,
        )

    def stochastic(self, noise: "Noise | None") -> "Callable[[Tensor], Tensor]":
        from precisionlaws.quant.noise import Noise

        source = noise or Noise()
        return lambda x: self.quantized(x, source.draw())

    def learned(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        """`x` under learned scales, with gradients of both."""
        from precisionlaws.kernels import numbers
        from precisionlaws.quant import estimators

        kind, largest, group = self.type(), self.largest, self.length(x)
        return estimators.learned_scale(
            x, scales, lambda v: numbers.nearest(v, *kind), -largest, largest, group
        )
