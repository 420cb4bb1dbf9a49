"""Number types under scales of computing precision: what integers and floats have in common."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from precisionlaws.config import ConfigError, neutral, ranged
from precisionlaws.quant.formats.base import SCALE_BITS, Format, group_fits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from precisionlaws.kernels.numbers import Type
    from precisionlaws.kernels.philox import At
    from precisionlaws.quant.noise import Noise

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

    MIDRISE: ClassVar[bool] = False
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

    def rounded(self, x: "Tensor", scales: "Tensor", at: "At | None" = None) -> "Tensor":
        """at: rounds stochastically, by the numbers from there on."""
        from precisionlaws.kernels import ops

        return ops.rounded(x, scales, *self.type(), self.length(x), at, self.MIDRISE)

    def quantized(self, x: "Tensor", at: "At | None" = None) -> "Tensor":
        """`x` under its own scales, without a gradient."""
        from precisionlaws.kernels import ops
        from precisionlaws.kernels.philox import after
        from precisionlaws.kernels.pieces import by_pieces

        def quantize(part: "Tensor", first: int) -> "Tensor":
            return self.rounded(part, self.scales(part), after(at, first))

        if self.scale == "absmax" and not self.MIDRISE:
            return ops.to_type(x, *self.type(), self.length(x), at)
        return by_pieces(quantize, x, self.length(x))

    def masked(self, x: "Tensor", at: "At | None" = None) -> "tuple[Tensor, Tensor]":
        """The same, and where its gradient passes."""
        from precisionlaws.kernels import ops

        return ops.rounded_within(
            x, self.scales(x), *self.type(), self.length(x), self.bound, at, self.MIDRISE
        )

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.quant import estimators
        from precisionlaws.quant.noise import Noise

        if self.off:
            return lambda x: x
        if self.scale == "learned":
            return lambda x: self.learned(x, self.scales(x.detach()))
        if self.scale == "gaussian":
            _ = self.gaussian_step  # searched for now: torch.compile could not
        source = noise or Noise()
        draw = source.draw if self.rounding == "stochastic" else lambda: None
        if self.estimator == "ste" or self.scale in CLIPS_NOTHING:
            return estimators.straight_through(lambda x: self.quantized(x, draw()), self.quantized)
        return estimators.within(lambda x: self.masked(x, draw()), self.quantized)

    def stacked(self, members: "Sequence[Format]") -> "Callable[[Tensor], Tensor]":
        """Types that differ are rounded to at once, under absmax scales."""
        on = [f for f in members if not f.off]
        if self.scale != "absmax" or self.rounding != "nearest" or not all(map(self.pairs, on)):
            return super().stacked(members)
        from precisionlaws.kernels import ops, scaled

        kinds = [(self if f.off else f).type() for f in members]  # type: ignore[attr-defined]
        length = self.length
        return together(
            members, scaled.table(kinds), lambda x, types: ops.to_types(x, types, length(x))
        )

    def pairs(self, other: Format) -> bool:
        """Whether they differ in their types alone, and both fit in a table of them."""
        from precisionlaws.kernels.numbers import WIDE

        if not isinstance(other, Scaled) or self.MIDRISE or other.MIDRISE:
            return False
        fields = ("granularity", "group", "scale", "rounding")
        same = all(getattr(self, f) == getattr(other, f) for f in fields)
        return same and max(self.largest, other.largest) < WIDE

    def learned(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        """`x` under learned scales, with gradients of both."""
        from precisionlaws.kernels import numbers
        from precisionlaws.quant import estimators

        kind, largest, group = self.type(), self.largest, self.length(x)
        return estimators.learned_scale(
            x, scales, lambda v: numbers.nearest(v, *kind), -largest, largest, group
        )


def together(
    members: "Sequence[Format]", numbers: "Tensor", quantize: "Callable[[Tensor, Tensor], Tensor]"
) -> "Callable[[Tensor], Tensor]":
    """(E, ...) -> quantize(x, numbers), members that are off unchanged. numbers: (E, ...), of each member."""
    import torch

    from precisionlaws.quant.estimators import straight_through

    on, some_off = torch.tensor([not f.off for f in members]), any(f.off for f in members)
    here: dict[torch.device, tuple[Tensor, Tensor]] = {}  # a copy to a GPU per call is slow

    def rounded(x: "Tensor") -> "Tensor":
        if x.device not in here:
            here[x.device] = numbers.to(x.device), on.to(x.device)
        own, mask = here[x.device]
        y = quantize(x, own)
        return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), y, x) if some_off else y

    return straight_through(rounded)
