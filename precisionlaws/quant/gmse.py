"""Gaussian mean squared error of a format: by one number, how much it loses on normal values.

GMSE = E (Q(x) - x)² / σ² for x ~ N(0, σ²), the argument of law neff_gmse (Panferov et al. 2025, arXiv
2506.01863): formats of equal GMSE are held to cost equally much, whatever their types and scales. σ runs
through an octave, because formats with power-of-two scales are finer for some σ than for others.

Measured, on a fixed sample, with the quantizer itself; to about 1%. Scales are those of vectors as long as
the tensor's own, as a row of 32 has a finer absmax scale than a row of 4096. Rounding is that of evaluation,
to nearest, and a learned scale is taken as the one of least error.
"""

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from precisionlaws.quant.formats.base import Format
from precisionlaws.quant.formats.scaled import Scaled
from precisionlaws.quant.roles import Quant

if TYPE_CHECKING:
    from torch import Tensor

    from precisionlaws.quant.formats.base import Matrix

VALUES = 1 << 16  # of the sample


def columns(quant: Quant, matrices: "Iterable[Matrix]", head_dim: int) -> dict[str, float | None]:
    """gmse_w, gmse_a and gmse_kv of a row, None where nothing is quantized."""
    matrices = tuple(matrices)
    heads = (("head", 1, head_dim),)
    return {
        "gmse_w": of_matrices(quant.weights, matrices),
        "gmse_a": of_matrices(quant.activations, tuple((name, 1, n) for name, _, n in matrices)),
        "gmse_kv": of_matrices(quant.kv, heads),
    }


def of_matrices(format: Format, matrices: "Iterable[Matrix]") -> float | None:
    """Mean over the values of (name, out, in) matrices, to four digits; None for a format that is off."""
    if format.off:
        return None
    errors = [(out * n, gmse(format, n, out if format.whole_tensor else 1)) for _, out, n in matrices]  # fmt: skip
    return float(f"{sum(n * e for n, e in errors) / sum(n for n, _ in errors):.4g}")


@functools.lru_cache(maxsize=1024)
def gmse(format: Format, length: int, rows: int = 1) -> float:
    """Of vectors of `length`. rows: how many share a scale, for a format whose scale spans a tensor."""
    import torch

    if format.off:
        return 0.0
    if format.learns:
        assert isinstance(format, Scaled)
        format = replace(format, scale="mse", estimator="ste")
    draws = max(1, VALUES // (rows * length))
    generator = torch.Generator().manual_seed(0)
    sigma = 2.0 ** ((torch.arange(draws) + 0.5) / draws).view(-1, 1, 1)
    x = torch.randn(draws, rows, length, generator=generator) * sigma
    quantize = format.quantizer()
    y = torch.stack([quantize(part) for part in x]) if format.whole_tensor else quantize(x)
    return _mean_square((y - x) / sigma)


def _mean_square(x: "Tensor") -> float:
    return float(x.double().square().mean())
