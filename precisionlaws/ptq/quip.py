"""QuIP: GPTQ between two random rotations, with one scale for the whole matrix.

Chee et al. 2023 (arXiv:2307.13304). Inputs are rescaled so that H and WᵀW have like diagonals; a random
orthogonal matrix on either side of W (kronecker.py) makes weights look normal and H free of outliers; LDLQ
(ldlq.py), inputs of large H_kk first, rounds to 2^b evenly spaced levels; *passes* then take weight after
weight to its best level given the errors of all others, as long as that lowers tr(E H Eᵀ).

The levels are ±1/2, ±3/2 ... steps. `step=normal` takes the step that costs a normal source least
(midrise.py), which is what weights are then; `step=published` spreads the levels over ±2.4 standard deviations
at every width, as the authors' code does, and pays for it: 1.7 times the damage at 2 bits.

Stored: codes, one step (bfloat16), the factor of every input as a whole number of eighths of an octave
(int8; the authors' code stores 16 bits), and the seed of the rotations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from precisionlaws.config import ranged
from precisionlaws.ptq.base import Calibrated, Quantized

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from precisionlaws.ptq.kronecker import Kronecker

REACH = 2.4  # standard deviations to the largest level, as published
OCTAVE = 8  # steps of a factor
TINY = 1e-8  # of the mean square of weights: an input without any has a factor all the same


@dataclass(frozen=True, kw_only=True)
class Quip(Calibrated):
    SHORT: ClassVar[str] = "quip"
    bits: int = ranged(2, 8)
    step: Literal["normal", "published"]
    rescale: bool  # a factor per input, 8 bits each
    passes: int = ranged(0)  # at most; after LDLQ
    percdamp: float = ranged(0, 1)  # share of the mean of H's diagonal that is added to it

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """Raises: ConfigError if H cannot be factored."""
        import torch

        from precisionlaws.ptq import blocks
        from precisionlaws.ptq.packing import pack

        self.check(W.shape)
        assert H is not None  # application.check
        seed = torch.randint(2**62, (1,), generator=generator)
        outputs, inputs = rotations(int(seed), W.shape)
        octaves = self.octaves(W, H)
        factors = factors_of(octaves).to(W.device)
        X = inputs.turn((W if W.dtype == torch.float64 else W.float()) * factors.to(W))
        X = outputs.turn(X.T).contiguous()  # (in, out)
        rotated = inputs.turn(inputs.turn(H.double() / factors / factors.unsqueeze(1)).T)
        step = (X.double().square().mean().sqrt() * self.deviations()).bfloat16()
        codes, info = self.solve(X / (step.item() or 1.0), rotated)
        payload = {
            "codes": pack(codes.T.cpu() + 2 ** (self.bits - 1) - 1, self.bits),
            "step": step.reshape(1).cpu(),
            "seed": seed,
        }
        if self.rescale:
            payload["factors"] = octaves.cpu()
        return blocks.quantized(W, self.decode(payload, W.shape), H, self.bits, payload, info)

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        from precisionlaws.ptq.packing import unpack

        outputs, inputs = rotations(int(payload["seed"]), shape)
        rows, columns = shape
        codes = unpack(payload["codes"], self.bits, rows * columns).view(rows, columns)
        X = (codes - (2 ** (self.bits - 1) - 0.5)) * payload["step"].float()
        weight = inputs.back(outputs.back(X.T.contiguous()).T)
        return weight / factors_of(payload["factors"]).float() if self.rescale else weight

    def solve(self, X: "Tensor", H: "Tensor") -> "tuple[Tensor, dict[str, Any]]":
        """Codes c (in, out) of levels c - 1/2, and what to say of them; X (in, out) in steps."""
        from precisionlaws.ptq import blocks, ldlq
        from precisionlaws.ptq.grids import Grid

        high, order = 2 ** (self.bits - 1), H.diagonal().argsort(descending=True, stable=True)
        H, x = H[order][:, order], (X + 0.5)[order]  # so that levels are c
        factor = ldlq.factorize(H, self.percdamp, x.dtype)
        grid = Grid(*(x.new_full((1, x.shape[1]), v) for v in (1, 1 - high, high)))
        codes = ldlq.solve(x, factor.L, grid, [0] * len(x)).codes
        E = x - codes

        def nearest(k: int, target: "Tensor", own: "Tensor") -> "Tensor":
            codes[k] = target[0].round().clamp(1 - high, high)
            return codes[k]

        done = blocks.improve(x, H, factor.damping, self.passes, 1, nearest, (E, codes))
        return codes[order.argsort()], {"damping": factor.damping, "passes": done}

    def deviations(self) -> float:
        """A step in standard deviations of the rotated weights"""
        from precisionlaws.ptq import midrise

        spread = 2 * REACH / (2**self.bits - 1)
        return midrise.step(self.bits) if self.step == "normal" else spread

    def octaves(self, W: "Tensor", H: "Tensor") -> "Tensor":
        """(in,) int8: (diag H / diag WᵀW)^(1/4) in eighths of an octave, relative to their mean."""
        import torch

        h, w = H.diagonal().double(), W.double().square().sum(0)
        ratio = (h + self.percdamp * h.mean()).log2() - (w + TINY * w.mean()).log2()
        known = ratio.isfinite()
        steps = torch.where(known, (ratio - ratio[known].mean()) * OCTAVE / 4, 0.0)
        return steps.round().clamp(-127, 127).to(torch.int8) * int(self.rescale)


def factors_of(octaves: "Tensor") -> "Tensor":
    """(in,) float64"""
    return (octaves.double() / OCTAVE).exp2()


def rotations(seed: int, shape: Sequence[int]) -> "tuple[Kronecker, Kronecker]":
    """Of the outputs and of the inputs"""
    import torch

    from precisionlaws.ptq.kronecker import Kronecker

    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = (Kronecker.random(n, generator) for n in shape)
    return outputs, inputs
