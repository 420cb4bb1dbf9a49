"""δ = C_T · D^γ_D · N_eff^−γ_N · e^(−P_post/γ_post) · ∏_x (1 − e^(−C_x (P_x − P_post))), x in w, a, kv
(Kumar et al. 2024, arXiv 2411.04330, Eq. 9): rounding a run that was itself trained at low precision.

Training at P_x bits makes a model robust to rounding; at P_post = P_x nothing is left to lose, and from
there up δ is 0. A role that no rounded run quantizes has no C_x and a factor of 1. On N_eff only if the
composition says `penalties_on: effective`, and then N_eff is that of the fitted losses.
"""

from typing import Any

import numpy as np

from precisionlaws.laws import ptq_kumar
from precisionlaws.laws.base import OFF, ROLES, Array, Param, Params, off, widths

COLUMNS = ("P_w", "P_a", "P_kv", "P_post")
LINEAR = ptq_kumar.LINEAR
MIN_BITS = ptq_kumar.MIN_BITS
PAIRED = True


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    robust = {"unit": "1/bit", "lower": 1e-3, "upper": 30.0, "start": (0.05, 5.0)}
    return (
        *ptq_kumar.params(x),
        *(Param(name=f"C_{role}", **robust) for role in ROLES if widths(x, f"P_{role}")),
    )


def penalty(p: Params, N: Any, D: Any, x: dict[str, Array]) -> Any:
    out = ptq_kumar.penalty(p, N, D, x)
    for role in ROLES:
        P = x[f"P_{role}"]
        if f"C_{role}" in p:
            gap = P - x["P_post"]
            factor = -np.expm1(-p[f"C_{role}"] * np.where(np.real(gap) > 0, gap, 0.0))
            out = out * np.where(off(x["P_post"]), 0.0, factor)
        elif np.any(~off(P) & ~off(x["P_post"])):
            raise ValueError(
                f"ptq_kumar_trained has no C_{role}, but P_{role} is below {OFF:g} bits; parameters: {', '.join(p)}"
            )
    return out
