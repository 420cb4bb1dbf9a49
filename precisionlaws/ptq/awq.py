"""AWQ: inputs that carry much get finer codes, by scales that cost nothing, and ranges are clipped.

Lin et al. 2024 (arXiv:2306.00978): with s > 0 per input, W x = (W s)(x / s), and rounding W s hurts the
inputs of large s less. s = rms(x)^r for the r in 0, 0.05 .. 0.95 that is best (and half a step beside it),
over the geometric mean of its extremes; then the range of every group is shrunk by up to half where that is better. Where they
measure outputs on tokens, we have them from H exactly: a linear's output changes by tr(E H Eᵀ).

In a model 1/s goes into what makes x (folding.py), and linears that read one x share s. A matrix whose x
nothing can scale in this way is clipped only. A matrix alone stores s, 16 bits per input. Where activations
or V are rounded on their way, they are rounded as x / s, whose inputs are closer in power.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from precisionlaws.ptq.base import Calibrated, Quantized, bits_of
from precisionlaws.ptq.scalar import Scalar

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from precisionlaws.ptq.calibration import Calibration

STEP = 1 / 20
POWERS = [i * STEP for i in range(20)]


@dataclass(frozen=True, kw_only=True)
class Awq(Scalar, Calibrated):
    SHORT: ClassVar[str] = "awq"
    scale: bool
    clip: bool

    def quantize(
        self, W: "Tensor", H: "Tensor | None" = None, generator: "Generator | None" = None
    ) -> Quantized:
        """One matrix by itself, with its s stored. Raises: ConfigError if a scale does not fit `scale_dtype`."""
        self.check(W.shape)
        assert H is not None  # application.check
        x = self.computed(W)
        before = self.before(x, H)
        if not self.scale:
            return self.rounded(W, H, before)
        s = self.best([x], H, stored=True)
        q = self.rounded(x * s, scaled(H, s), before)
        payload = {**q.payload, "input_scales": s.half().cpu()}
        weight = (q.weight.float() / s.float()).to(W.dtype)
        return Quantized(weight, payload, bits_of(payload, self.bits, W.numel()), q.info)

    def decode(self, payload: "Mapping[str, Tensor]", shape: Sequence[int]) -> "Tensor":
        weight, s = super().decode(payload, shape), payload.get("input_scales")
        return weight if s is None else weight / s.float()

    def quantize_model(
        self, model: "nn.Module", calibration: "Calibration | None", seed: int
    ) -> dict[str, Quantized]:
        from precisionlaws.models.parts import linears
        from precisionlaws.ptq.folding import fold, foldable

        assert calibration is not None  # application.check
        found, H = dict(linears(model)), dict(calibration.hessians)
        names = {id(m): name for name, m in found.items()}
        before = {n: self.before(self.computed(m.weight), H[n]) for n, m in found.items()}
        for source, readers in foldable(model) if self.scale else ():
            of = [names[id(m)] for m in readers]
            s = self.best([self.computed(m.weight) for m in readers], H[of[0]])
            fold(source, readers, s)
            H |= dict.fromkeys(of, scaled(H[of[0]], s))
        out = {n: self.rounded(m.weight.detach(), H[n], before[n]) for n, m in found.items()}
        for name, linear in found.items():
            linear.weight.copy_(out[name].weight)
        return out

    def computed(self, W: "Tensor") -> "Tensor":
        """In computing precision."""
        return self.grouped(W.detach()).view(W.shape)

    def before(self, x: "Tensor", H: "Tensor") -> tuple[float, float]:
        """tr(W H Wᵀ), and tr(E H Eᵀ) of rounding to nearest."""
        from precisionlaws.ptq.ldlq import proxy

        return proxy(x, H), proxy(x - self.nearest(x), H)

    def nearest(self, x: "Tensor") -> "Tensor":
        groups = self.grouped(x)
        grid = self.fit(groups)
        return (grid.codes(groups) * grid.scale).view(x.shape)

    def best(self, matrices: "Sequence[Tensor]", H: "Tensor", stored: bool = False) -> "Tensor":
        """s (in,) of the least damage to all matrices (out, in) that read one x; stored: as float16."""

        from precisionlaws.ptq.ldlq import proxy

        rms = H.diagonal().clamp(min=0).sqrt().to(matrices[0].dtype)
        seen = rms > 0
        rms = rms.clamp(
            min=rms[seen].min() if seen.any() else 1
        )  # what no token used, as the least

        def s_of(power: float) -> "Tensor":
            s = (rms**power).clamp_(min=1e-4)
            s /= (s.max() * s.min()).sqrt()
            return s.half().to(s.dtype) if stored else s

        def damage(power: float) -> float:
            s = s_of(power)
            return sum(proxy(x - self.nearest(x * s) / s, H) for x in matrices)

        coarse = min(POWERS, key=damage)
        return s_of(min((coarse, coarse - STEP / 2, coarse + STEP / 2), key=damage))

    def rounded(self, W: "Tensor", H: "Tensor", before: tuple[float, float]) -> Quantized:
        """W (out, in) scaled already, under the H of its inputs. before: see there."""
        from precisionlaws.ptq.clipping import clipped
        from precisionlaws.ptq.ldlq import proxy

        x, groups = self.computed(W), self.grouped(W)
        grid = self.fit(groups)
        if self.clip:
            grid = clipped(x, grid, H.to(x.dtype), self.fit)
        codes, (whole, of_rtn) = grid.codes(groups), before
        reached = proxy(x - (codes * grid.scale).view(x.shape), H)
        info: dict[str, Any] = {"relative_proxy": reached / (whole or 1.0)}
        info["relative_proxy_rtn"] = of_rtn / (whole or 1.0)
        if reached > of_rtn * (1 + 1e-6):
            info["warning"] = "worse than rounding to nearest: more calibration tokens may help"
        return self.quantized(codes, grid, W, info)


def scaled(H: "Tensor", s: "Tensor") -> "Tensor":
    """The H of x / s."""
    s = s.to(H.dtype)
    return H / s / s.unsqueeze(1)
