"""Round to nearest: every weight to the closest code of its group, by no other data than itself.

The default grid is that of training (kernels/reference.py), but with scales as they are stored.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.ptq.base import Quantized
from precisionlaws.ptq.scalar import Scalar

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Rtn(Scalar):
    SHORT: ClassVar[str] = "rtn"

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """Raises: ConfigError if a scale does not fit `scale_dtype`."""
        self.check(W.shape)
        groups = self.grouped(W)
        grid = self.fit(groups)
        return self.quantized(grid.codes(groups), grid, W)
