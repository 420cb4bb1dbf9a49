"""QuIP#: weights rotated until they look normal, rounded eight at a time to a lattice, with feedback.

Tseng et al. 2024 (arXiv:2402.04396), from its mathematics: random signs and Hadamard matrices on both sides
of W (incoherence.py), so that weights are close to independent normal numbers under an H without outliers;
LDLQ by blocks of eight inputs (ldlq.py), whose targets are rounded to E8P and its residuals (residual.py);
then *passes*, in which each block takes the best place given the errors of all others.

Beyond the paper: every number of inputs and outputs (a number of inputs that eight does not divide is filled
up with inputs that are always zero: their codes are stored and counted, nothing else); 2 to 8 bits; a block
changes in a pass only where that lowers tr(E H Eᵀ), and passes end where this falls by less than a
thousandth of itself. Fine-tuning, an option, is in tuning.py.

Stored: codes, a sign per input and per output (a float16 number each after fine-tuning), and one scale
(bfloat16: its rounding happens before anything is rounded by it, so only its range matters).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import neutral, ranged
from precisionlaws.ptq.base import Calibrated, Quantized

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from precisionlaws.ptq.calibration import Calibration
    from precisionlaws.ptq.incoherence import Rotation

WIDTH = 8  # inputs rounded together


@dataclass(frozen=True, kw_only=True)
class QuipSharp(Calibrated):
    SHORT: ClassVar[str] = "quip_sharp"
    bits: int = ranged(2, 8)
    passes: int = ranged(0)  # at most; after LDLQ
    percdamp: float = ranged(0, 1)  # share of the mean of H's diagonal that is added to it
    finetune: Literal["none", "blocks", "end_to_end", "both"] = neutral("none")

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """Raises: ConfigError if H cannot be factored."""
        import torch

        from precisionlaws.ptq import blocks, incoherence, vectors
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
        weight = self.decode(payload, W.shape)
        return blocks.quantized(W, weight, H, self.bits, payload, solved.info)

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        points = self.points(payload, shape)
        rotation = self.rotation(payload, shape)
        return rotation.back(points)[:, : shape[1]].contiguous()

    def points(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        """(out, in filled up), before it is rotated back"""
        from precisionlaws.ptq import vectors

        X = vectors.decoded(payload["codes"], self.bits, (shape[0], filled(shape[1])))
        return X * payload["scale"].float()

    def rotation(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Rotation":
        from precisionlaws.ptq.incoherence import Rotation
        from precisionlaws.ptq.packing import unpack

        if "outputs" in payload:
            return Rotation(payload["outputs"].float(), payload["inputs"].float())
        return Rotation.of(unpack(payload["signs"], 1, shape[0] + filled(shape[1])), shape[0])

    def quantize_model(
        self, model: "nn.Module", calibration: "Calibration | None", seed: int
    ) -> dict[str, Quantized]:
        if self.finetune == "none":
            return super().quantize_model(model, calibration, seed)
        from precisionlaws.ptq import tuning

        assert calibration is not None  # application.check
        return tuning.quantize_model(self, model, calibration, seed)


def filled(inputs: int) -> int:
    return math.ceil(inputs / WIDTH) * WIDTH
