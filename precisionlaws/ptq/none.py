"""No PTQ: the run as it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.ptq.base import Bits, Ptq, Quantized

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class NoPtq(Ptq):
    SHORT: ClassVar[str] = "none"
    bits: ClassVar[int] = 16  # pyright: ignore[reportIncompatibleVariableOverride]  (fixed)

    def normal(self) -> dict[str, Any] | None:
        return None

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        return Quantized(W, {"weight": W}, Bits(16, 16, {"weight": 16}))

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        return payload["weight"].view(*shape)
