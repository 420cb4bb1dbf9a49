"""N_eff = N · ∏_x eff_x[P_x]: one efficiency for each role and width that was trained, no formula
between them (Frantar et al. 2025, arXiv 2502.16440; Panferov et al. 2025, arXiv 2502.05003).

The form-free check on every formula in P. Efficiencies are well determined even where E and the
exponents of the base are not, and the best width needs nothing else. Nothing is said about a width
that was not trained. Effects of roles multiply, as in Kumar et al., Eq. 4.
"""

import itertools
from typing import Any

import numpy as np

from precisionlaws.laws.base import ROLES, Array, Param, Params, off, widths

COLUMNS = ("P_w", "P_a", "P_kv")
ON = "N"
CONTINUOUS = False


def params(x: dict[str, Array], stem: str = "eff", unit: str = "N_eff/N") -> tuple[Param, ...]:
    return tuple(
        # Above 1 is allowed: near 16 bits noise puts half of the estimates there.
        Param(name=f"{stem}_{role}[{P:g}]", unit=unit, lower=1e-4, upper=10.0, start=(0.3, 1.0))
        for role in ROLES
        for P in widths(x, f"P_{role}")
    )


def scale(p: Params, x: dict[str, Array], stem: str = "eff") -> Any:
    out: Any = 1.0
    for role in ROLES:
        P = x[f"P_{role}"]
        factor: Any = np.where(off(P), 1.0, np.nan)
        for name, value in p.items():
            if name.startswith(f"{stem}_{role}["):
                width = float(name[len(f"{stem}_{role}[") : -1])
                factor = np.where(np.real(P) == width, value, factor)
        out = out * factor
    return out


def slopes(p: Params, x: dict[str, Array], stem: str = "eff") -> dict[str, Any]:
    """d ln scale / d ln of each efficiency: 1 where the row has that width."""
    out = {}
    for name in p:
        role, _, width = name.removeprefix(f"{stem}_").partition("[")
        if name.startswith(f"{stem}_") and role in ROLES:
            out[name] = np.where(np.real(x[f"P_{role}"]) == float(width[:-1]), 1.0, 0.0)
    return out


def domain(p: Params, x: dict[str, Array], stem: str = "eff") -> str:
    """Which width has no efficiency."""
    for role in ROLES:
        known = sorted(
            float(k.partition("[")[2][:-1]) for k in p if k.startswith(f"{stem}_{role}[")
        )
        lacking = [b for b in widths(x, f"P_{role}") if b not in known]
        if lacking:
            return f"P_{role} = {lacking[0]:g} bits was not measured; {stem}_{role} is known at {known or 'no width'}"
    return "an efficiency is not positive"


def notes(x: dict[str, Array], stem: str = "eff", coefficient: str = "A") -> tuple[str, ...]:
    """What the data cannot say about this term."""
    unanchored = [
        f"no run has P_{role} at 16 bits: {stem}_{role} is known only up to a factor, which {coefficient} absorbs"
        for role in ROLES
        if widths(x, f"P_{role}") and not np.any(off(x[f"P_{role}"]))
    ]
    rows = {
        f"{stem}_{role}[{P:g}]": np.real(x[f"P_{role}"]) == P
        for role in ROLES
        for P in widths(x, f"P_{role}")
    }
    together = [
        f"{a} and {b} are never trained apart: only their product is known"
        for a, b in itertools.combinations(rows, 2)
        if np.array_equal(rows[a], rows[b])
    ]
    return (*unanchored, *together)
