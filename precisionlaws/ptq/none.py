"""No PTQ: the run as it was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.config import ConfigError
from precisionlaws.ptq.base import Bits, Ptq, Quantized

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class NoPtq(Ptq):
    SHORT: ClassVar[str] = "none"
    bits: ClassVar[int] = 16  # pyright: ignore[reportIncompatibleVariableOverride]  (fixed)

    def rules(self) -> None:
        for name in ("activation_bits", "kv_bits"):
            if (bits := getattr(self, name)) != 16:
                raise ConfigError(
                    f"{name} must be 16 with ptq=none, which rounds no weights, got {bits}"
                )

    def normal(self) -> dict[str, Any] | None:
        return None

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        return Quantized(W, {"weight": W}, Bits(16, 16, {"weight": 16}))

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        return payload["weight"].view(*shape)
