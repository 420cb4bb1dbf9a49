"""Symmetric integers of narrow range, 3 to 15 bits: values q·s with |q| <= 2^(b-1) - 1."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ConfigError
from precisionlaws.quant.formats.scaled import Scaled, together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from precisionlaws.kernels.numbers import Type
    from precisionlaws.quant.formats.base import Format
    from precisionlaws.quant.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Int(Scaled):
    """With absmax, the maximum of each group is the largest code. Definition: kernels/reference.py."""

    SHORT: ClassVar[str] = "int"
    bits: int  # 3 to 15; 16 = off

    def rules(self) -> None:
        if self.bits != 16 and not 3 <= self.bits <= 15:
            raise ConfigError(
                f"bits must be 3 to 15, or 16 for off, got {self.bits} "
                "(int2 and ternary are formats of their own)"
            )
        if self.scale == "absmean" and self.bits not in (3, 16):
            raise ConfigError(
                "scale=absmean is for 3 bits and ternary; at more bits gaussian and mse say where to clip, "
                f"got bits={self.bits}"
            )
        super().rules()

    def type(self) -> "Type":
        from precisionlaws.kernels.numbers import int_type

        return int_type(self._q_max)

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws import kernels
        from precisionlaws.quant.estimators import straight_through

        if self.off or self.scale != "absmax" or self.rounding != "nearest":
            return super().quantizer(noise)
        q_max, length, fake_quantize = self._q_max, self.length, kernels.fake_quantize
        return straight_through(lambda x: fake_quantize(x, q_max, length(x)))

    def stacked(self, members: "Sequence[Format]") -> "Callable[[Tensor], Tensor]":
        alike = all(f.off or replace(self, bits=f.bits) == f for f in members)
        if not alike or self.scale != "absmax" or self.rounding != "nearest":
            return super().stacked(members)
        import torch

        from precisionlaws import kernels

        limits = torch.tensor([1.0 if f.off else float(f._q_max) for f in members])  # type: ignore[attr-defined]
        length, fake_quantize = self.length, kernels.fake_quantize
        return together(members, limits, lambda x, q_max: fake_quantize(x, q_max, length(x)))

    @property
    def _q_max(self) -> int:
        return 2 ** (self.bits - 1) - 1
