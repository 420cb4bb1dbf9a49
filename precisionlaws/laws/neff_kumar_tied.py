"""N_eff = N · ∏_x (1 − e^(−P_x/γ + n)), one γ and one n for weights, activations and KV cache
(Kumar et al. 2024, arXiv 2411.04330, Section 4.3: with one P everywhere, N·(1 − e^(−P/γ̄))³).

Two parameters instead of six: right only if the roles are equally sensitive, which the untied fits of
the same paper deny for coarse scales, and rotated formats come near to.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import ROLES, Array, Param, Params, off, widths

COLUMNS = ("P_w", "P_a", "P_kv")
ON = "N"
CONTINUOUS = True


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    P = sorted({b for role in ROLES for b in widths(x, f"P_{role}")})
    gamma = Param(name="gamma_bits", unit="bits", lower=0.1, upper=20.0, start=(0.4, 6.0))
    # One width cannot tell an offset from γ.
    n = Param(
        name="n_bits", unit="", lower=1e-3, upper=30.0, start=(0.2, 4.0), link="below", of="gamma_bits", at=min(P, default=0.0)
    )  # fmt: skip
    return (gamma, n)[: min(len(P), 2)]


def scale(p: Params, x: dict[str, Array]) -> Any:
    out: Any = 1.0
    for P in (x[f"P_{role}"] for role in ROLES):
        if "gamma_bits" in p:
            factor = -np.expm1(-P / p["gamma_bits"] + p.get("n_bits", 0.0))
            out = out * np.where(off(P), 1.0, np.where(np.real(factor) > 0, factor, np.nan))
        elif np.any(~off(P)):
            raise ValueError("neff_kumar_tied has no gamma_bits, but a width is below 16 bits")
    return out


def domain(p: Params, x: dict[str, Array]) -> str:
    """The width at which the factor is zero."""
    zero = np.max(p.get("n_bits", 0.0) * p["gamma_bits"])
    low = min(float(np.min(x[f"P_{role}"])) for role in ROLES)
    return f"{low:g} bits, and 1 − exp(−P/γ + n) is zero or negative up to {zero:.2f} bits"


def notes(x: dict[str, Array]) -> tuple[str, ...]:
    """What the data cannot say about this term."""
    P = {b for role in ROLES for b in widths(x, f"P_{role}")}
    return (
        (
            f"only {P.pop():g} bits were trained, which cannot tell γ from an offset: n is taken as 0",
        )
        if len(P) == 1
        else ()
    )
