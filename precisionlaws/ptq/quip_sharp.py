"""QuIP#: weights rotated until they look normal, rounded eight at a time to a lattice, with feedback.

Tseng et al. 2024 (arXiv:2402.04396), from its mathematics: random signs and Hadamard matrices on both sides
of W (incoherence.py), so that weights are close to independent normal numbers under an H without outliers;
LDLQ by blocks of eight inputs (ldlq.py), whose targets are rounded to E8P and its residuals (residual.py);
then *passes*, in which each block takes the best place given the errors of all others.

Beyond the paper: every number of inputs and outputs (a number of inputs that eight does not divide is filled
up with inputs that are always zero: their codes are stored and counted, nothing else); 2 to 8 bits; a block
changes in a pass only where that lowers tr(E H Eᵀ), and passes end where this falls by less than a
thousandth of itself. Fine-tuning is not done here.

Stored: codes, a sign per input and per output, and one scale (bfloat16: its rounding happens before anything
is rounded by it, so only its range matters).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from precisionlaws.config import ConfigError, ranged
from precisionlaws.ptq.base import Calibrated, Quantized, bits_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

WIDTH = 8  # inputs rounded together


@dataclass(frozen=True, kw_only=True)
class QuipSharp(Calibrated):
    SHORT: ClassVar[str] = "quip_sharp"
    bits: int = ranged(2, 8)
    passes: int = ranged(0)  # at most; after LDLQ
    percdamp: float = ranged(0, 1)  # share of the mean of H's diagonal that is added to it

    def check(self, shape: Sequence[int], name: str = "the matrix") -> None:
        if 0 in shape:
            raise ConfigError(f"{name} must have weights, got shape {tuple(shape)}")

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """Raises: ConfigError if H cannot be factored."""
        import torch

        from precisionlaws.ptq import incoherence, vectors
        from precisionlaws.ptq.blocks import report
        from precisionlaws.ptq.packing import pack

        self.check(W.shape)
        assert H is not None  # application.check
        rotation = incoherence.Rotation.random(len(W), filled(W.shape[1]), generator)
        more = rotation.inputs.numel() - W.shape[1]
        pad = torch.nn.functional.pad
        X = rotation.weight(pad(W if W.dtype == torch.float64 else W.float(), (0, more)))
        solved = vectors.solve(
            X, rotation.hessian(pad(H, (0, more, 0, more))), self.bits, self.percdamp, self.passes
        )
        payload = {
            "codes": vectors.stored(solved.words, self.bits),
            "scale": solved.scale.cpu(),
            "signs": pack(rotation.negative().cpu(), 1),
        }
        weight = self.decode(payload, W.shape).to(W)
        info = report(W, weight, H, self.bits) | dict(solved.info)
        return Quantized(weight, payload, bits_of(payload, self.bits, W.numel()), info)

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        from precisionlaws.ptq import incoherence, vectors
        from precisionlaws.ptq.packing import unpack

        rows, columns = shape[0], filled(shape[1])
        rotation = incoherence.Rotation.of(unpack(payload["signs"], 1, rows + columns), rows)
        X = vectors.decoded(payload["codes"], self.bits, (rows, columns))
        return rotation.back(X * payload["scale"].float())[:, : shape[1]].contiguous()


def filled(inputs: int) -> int:
    return math.ceil(inputs / WIDTH) * WIDTH
