"""What RTN and GPTQ have in common: one code per weight on a grid per tensor, row or group."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from precisionlaws.config import ConfigError, neutral, ranged
from precisionlaws.ptq.base import Ptq, Quantized, bits_of

if TYPE_CHECKING:
    from torch import Tensor

    from precisionlaws.ptq.grids import Grid


@dataclass(frozen=True, kw_only=True)
class Scalar(Ptq):
    """Options and payload of every method with scalar codes."""

    bits: int = ranged(2, 15)
    granularity: Literal["tensor", "row", "group"]
    group: int = ranged(1)  # values per scale, with granularity=group
    scale_dtype: Literal["float16", "float32"]
    grid: Literal["narrow", "full", "asymmetric"] = neutral("narrow")
    range: Literal["absmax", "mse"] = neutral("absmax")

    def rules(self) -> None:
        # float16 is off by up to 2^-11, at the largest code more than half a step beyond these.
        most = 10 if self.grid == "asymmetric" else 11
        if self.bits > most and self.scale_dtype == "float16":
            of = " of an asymmetric grid" if self.grid == "asymmetric" else ""
            raise ConfigError(
                f"scale_dtype must be float32 for {most + 1} to 15 bits{of}, "
                f"got float16 for {self.bits}"
            )

    def inactive(self) -> set[str]:
        return set() if self.granularity == "group" else {"group"}

    def check(self, shape: Sequence[int], name: str = "the matrix") -> None:
        super().check(shape, name)
        if self.granularity == "group" and shape[-1] % self.group:
            raise ConfigError(
                f"group must divide the {shape[-1]} inputs of {name}, got {self.group}"
            )

    def bits_effective(self, shape: Sequence[int]) -> float:
        """In whole bytes, as they are stored."""
        values = math.prod(shape)
        length = {"tensor": values, "row": shape[-1], "group": self.group}[self.granularity]
        groups, wide = values // length, 16 if self.scale_dtype == "float16" else 32
        zeros = math.ceil(groups * self.bits / 8) if self.grid == "asymmetric" else 0
        stored = math.ceil(values * self.bits / 8) + groups * wide // 8 + zeros
        return 8 * stored / values

    def grouped(self, x: "Tensor") -> "Tensor":
        """(out, in) -> (groups, values) that share a scale, in computing precision."""
        import torch

        length = {"tensor": x.numel(), "row": x.shape[-1], "group": self.group}[self.granularity]
        return (x if x.dtype == torch.float64 else x.float()).reshape(-1, length)

    def fit(self, groups: "Tensor") -> "Grid":
        """Grids of (..., values); raises ConfigError if a scale does not fit `scale_dtype`."""
        import torch

        from precisionlaws.ptq import grids

        search, dtype = self.range == "mse", getattr(torch, self.scale_dtype)
        return grids.fit(groups, self.grid, self.bits, search, dtype)

    def quantized(
        self, codes: "Tensor", grid: "Grid", W: "Tensor", info: Mapping[str, Any] | None = None
    ) -> Quantized:
        """codes (groups, values) on grids (groups, 1) as they are stored, and what they decode to."""
        import torch

        from precisionlaws.ptq.packing import pack

        payload = {
            "codes": pack((codes - grid.low).cpu(), self.bits),
            "scales": grid.scale.squeeze(-1).to(getattr(torch, self.scale_dtype)).cpu(),
        }
        if self.grid == "asymmetric":
            payload["zeros"] = pack(-grid.low.cpu(), self.bits)
        # In fp32 for fp64 weights too: the payload must say it all.
        weight = (codes.float() * grid.scale.float()).view(W.shape).to(W.dtype)
        return Quantized(weight, payload, bits_of(payload, self.bits, W.numel()), info or {})

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        from precisionlaws.ptq.packing import unpack

        scales = payload["scales"].float().unsqueeze(-1)  # (groups, 1)
        groups = len(scales)
        codes = unpack(payload["codes"], self.bits, math.prod(shape)).view(groups, -1)
        if self.grid == "asymmetric":
            codes = codes - unpack(payload["zeros"], self.bits, groups).unsqueeze(-1)
        else:
            codes = codes - (2 ** (self.bits - 1) - (self.grid == "narrow"))
        return (codes.float() * scales).view(*shape)
