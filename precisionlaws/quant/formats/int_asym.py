"""Integers with a zero point, 2 to 15 bits: the codes span the values of a group, and hold 0."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError
from precisionlaws.quant.formats.scaled import Grouped

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from precisionlaws.quant.noise import Noise


@dataclass(frozen=True, kw_only=True)
class IntAsym(Grouped):
    """Minimum and maximum of each group are mapped to the ends. Definition: kernels/asymmetric.py."""

    SHORT: ClassVar[str] = "int_asym"
    ODD: ClassVar[bool] = False
    bits: int  # 2 to 15; 16 = off
    estimator: Literal["ste"]

    def rules(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ConfigError(f"bits must be 2 to 15, or 16 for off, got {self.bits}")

    def side(self, groups: int) -> dict[str, float]:
        return super().side(groups) | {"zeros": self.bits * groups}

    def scales(self, x: "Tensor") -> "Tensor":
        """(..., 2): scale and zero point of every group."""
        import torch

        from precisionlaws.kernels import asymmetric

        return torch.stack(asymmetric.grid(x, self._codes, self.length(x)), -1)

    def round(self, x: "Tensor", scales: "Tensor") -> "Tensor":
        from precisionlaws.kernels import asymmetric

        s, z = scales.unbind(-1)
        return asymmetric.rounded(x, s, z, self._codes, self.length(x))

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        from precisionlaws.kernels import ops
        from precisionlaws.quant.estimators import straight_through

        if self.off:
            return lambda x: x
        codes, length = self._codes, self.length
        return straight_through(lambda x: ops.asymmetric(x, codes, length(x)))

    @property
    def _codes(self) -> int:
        """The largest code; the least is 0."""
        return 2**self.bits - 1
