"""N_eff = N · ∏_x ρ(P_x), ρ = L · tanh(F · log_¼ GMSE(P))^C (Panferov et al. 2025, arXiv 2506.01863, Table 4).

GMSE is the mean squared error of the format on N(0, 1): for P bits that of the mid-rise uniform quantizer
with 2^P levels and the best step. F, C and L belong to the method of training and are shared by the roles.
Fitted by its authors to 1 to 8 bits in models of 30M to 200M parameters. Between whole widths log GMSE is
a cubic spline, whose last piece goes on above 12 bits, where ρ is within 10⁻⁵ of L.
"""

from functools import cache
from typing import Any

import numpy as np

from precisionlaws.laws.base import ROLES, Array, Param, Params, off, widths

COLUMNS = ("P_w", "P_a", "P_kv")
ON = "N"
CONTINUOUS = True
LEAST, MOST = 1, 12  # bits at which the quantizer is computed


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    P = {b for role in ROLES for b in widths(x, f"P_{role}")}
    return (
        Param(name="F", lower=0.02, upper=10.0, start=(0.1, 2.0), unit=""),
        Param(name="C", lower=0.05, upper=20.0, start=(0.3, 4.0), unit=""),
        Param(name="L", lower=0.05, upper=10.0, start=(0.5, 1.1), unit=""),
    )[: len(P)]  # k widths determine k numbers


def scale(p: Params, x: dict[str, Array]) -> Any:
    out: Any = 1.0
    for P in (x[f"P_{role}"] for role in ROLES):
        if np.all(off(P)):
            continue
        if "F" not in p:
            raise ValueError("neff_gmse has no F, but a width is below 16 bits")
        digits = -log_gmse(P) / np.log(4.0)
        rho = p.get("L", 1.0) * np.tanh(p["F"] * digits) ** p.get("C", 1.0)
        out = out * np.where(off(P), 1.0, rho)
    return out


def domain(p: Params, x: dict[str, Array]) -> str:
    """Which width has no quantizer."""
    low = min(float(np.min(x[f"P_{role}"])) for role in ROLES)
    return (
        f"{low:g} bits, and a quantizer needs two levels: at least {LEAST} bit"
        if low < LEAST
        else "F, C and L must be positive"
    )


def notes(x: dict[str, Array]) -> tuple[str, ...]:
    """What the data cannot say about this term."""
    P = {b for role in ROLES for b in widths(x, f"P_{role}")}
    taken = {1: "C and L are taken as 1", 2: "L is taken as 1"}
    return (f"{len(P)} width(s) below 16 bits: {taken[len(P)]}",) if len(P) in taken else ()


def log_gmse(P: Any) -> Any:
    """log GMSE at P bits, complex P allowed; NaN below 1 bit, and where P is 16 of no meaning."""
    c = _spline()
    real = np.real(P)
    i = np.clip(np.floor(real).astype(int) - LEAST, 0, c.shape[1] - 1)
    t = P - (i + LEAST)
    value = ((c[0][i] * t + c[1][i]) * t + c[2][i]) * t + c[3][i]
    return np.where(real >= LEAST, value, np.nan)


@cache
def gmse(bits: int) -> tuple[float, float]:
    """Mean squared error and best step of the mid-rise uniform quantizer with 2^bits levels on N(0, 1)."""
    from scipy.optimize import minimize_scalar

    # The best range grows like that of the largest of 2^bits samples (Hui & Neuhoff 2001).
    widest = 2 * (2.0 + np.sqrt(4 * np.log(2.0) * bits)) / 2**bits
    found: Any = minimize_scalar(
        lambda s: _mse(s, bits), bounds=(0.05 * widest, widest), method="bounded", options={"xatol": 1e-9 * widest}
    )  # fmt: skip
    return float(found.fun), float(found.x)


def _mse(step: float, bits: int) -> float:
    """∫ (x − q(x))² φ(x) dx, by the positive half: 1 − 2 E[x q] + E[q²] in closed form."""
    from scipy.special import ndtr

    k = np.arange(2 ** (bits - 1))
    edge, level = step * k, step * (k + 0.5)
    density = np.append(np.exp(-0.5 * edge**2) / np.sqrt(2 * np.pi), 0.0)
    tail = np.append(ndtr(-edge), 0.0)
    return float(1 + 2 * (level * (level * -np.diff(tail) + 2 * np.diff(density))).sum())


@cache
def _spline() -> Array:
    """Cubic coefficients of log GMSE between whole widths, (4, MOST − LEAST)."""
    from scipy.interpolate import CubicSpline

    whole = np.arange(LEAST, MOST + 1)
    return np.asarray(CubicSpline(whole, [np.log(gmse(int(b))[0]) for b in whole]).c)
