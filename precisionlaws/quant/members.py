"""One format per member of a pack, in the place of one format."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.quant.formats.base import Format

if TYPE_CHECKING:
    from torch import Tensor

    from precisionlaws.quant.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Members(Format):
    """Quantizes (E, ...) tensors, index e of the first axis by `formats[e]`; 16 bits pass unchanged."""

    SHORT: ClassVar[str] = "members"
    bits: ClassVar[float] = math.nan  # type: ignore[misc]  # each has its own
    formats: tuple[Format, ...]

    @property
    def off(self) -> bool:
        return all(f.off for f in self.formats)

    def fits(self, length: int, what: str) -> None:
        for f in self.formats:
            f.fits(length, what)

    def quantizer(self, noise: "Noise | None" = None) -> "Callable[[Tensor], Tensor]":
        return next(f for f in self.formats if not f.off).stacked(self.formats)


def packed(formats: Sequence[Format]) -> Members:
    return Members(formats=tuple(formats))
