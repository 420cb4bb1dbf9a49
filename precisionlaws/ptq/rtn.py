"""Round to nearest: every weight to the closest code of its group, by no other data than itself.

Symmetric integers of narrow range as in training (kernels/reference.py), but with scales as they are
stored: rounded to `scale_dtype` first, so that the codes are nearest under the scale that is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, ranged
from precisionlaws.ptq.base import Ptq, Quantized, bits_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Rtn(Ptq):
    SHORT: ClassVar[str] = "rtn"
    bits: int = ranged(2, 15)
    granularity: Literal["tensor", "row", "group"]
    group: int = ranged(1)  # values per scale, with granularity=group
    scale_dtype: Literal["float16", "float32"]

    def rules(self) -> None:
        # float16 is off by up to 2^-11, at the largest code more than half a step from 12 bits on.
        if self.bits > 11 and self.scale_dtype == "float16":
            raise ConfigError(
                f"scale_dtype must be float32 for 12 to 15 bits, got float16 for {self.bits}"
            )

    def inactive(self) -> set[str]:
        return set() if self.granularity == "group" else {"group"}

    def check(self, shape: Sequence[int], name: str = "the matrix") -> None:
        if self.granularity == "group" and shape[-1] % self.group:
            raise ConfigError(
                f"group must divide the {shape[-1]} inputs of {name}, got {self.group}"
            )

    def quantize(self, W: "Tensor", H: "Tensor | None" = None, seed: int = 0) -> Quantized:
        """Raises: ConfigError if a scale does not fit `scale_dtype`."""
        from precisionlaws.kernels import reference
        from precisionlaws.ptq.packing import pack

        self.check(W.shape)
        group, q_max = self._length(W.shape), 2 ** (self.bits - 1) - 1
        scales = self._stored(reference.scale(W, q_max, group))
        codes = reference.codes(W, scales, q_max, group)
        payload = {"codes": pack(codes.cpu() + q_max, self.bits), "scales": scales.cpu()}
        weight = reference.values(codes, scales.to(codes.dtype), group).to(W.dtype)
        return Quantized(weight, payload, bits_of(payload, self.bits, W.numel()))

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        import math

        from precisionlaws.kernels import reference
        from precisionlaws.ptq.packing import unpack

        codes = unpack(payload["codes"], self.bits, math.prod(shape)).view(*shape)
        codes = (codes - (2 ** (self.bits - 1) - 1)).float()
        return reference.values(codes, payload["scales"].float(), self._length(shape))

    def _stored(self, scales: "Tensor") -> "Tensor":
        """Scales as they are stored; one that moves the largest code by over half a step is refused."""
        import torch

        stored = scales.to(getattr(torch, self.scale_dtype))
        q_max = 2 ** (self.bits - 1) - 1
        bad = ~((stored.to(scales.dtype) - scales).abs() * q_max <= scales / 2)
        if bad.any():
            worst = scales[bad][0].item()
            cure = ": scale_dtype=float32" if self.scale_dtype == "float16" else ""
            raise ConfigError(
                f"scale_dtype must hold every scale, got {self.scale_dtype} for {worst:.3g}{cure}"
            )
        return stored

    def _length(self, shape: Sequence[int]) -> int | None:
        if self.granularity == "tensor":
            return None
        return self.group if self.granularity == "group" else shape[-1]
