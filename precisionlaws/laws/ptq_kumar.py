"""δ = C_T · D^γ_D · N^−γ_N · e^(−P_post/γ_post): what rounding a finished run's weights costs
(Kumar et al. 2024, arXiv 2411.04330, Eq. 2; there GPTQ on bf16 runs).

Fitted to paired δ (the same run before and after) at 3 bits and more: below, the damage saturates and
the exponential breaks. The paper's b in Appendix K is not separable from C_T and is left out.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import Array, Param, Params, off

COLUMNS = ("P_post",)
LINEAR = ("C_T",)
PAIRED = True
MIN_BITS = 3.0  # a rule fixed before looking at δ


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    centre = (("N", "gamma_N", 1), ("D", "gamma_D", -1))
    slope = {"unit": "", "lower": -3.0, "upper": 5.0, "link": "identity"}
    return (
        Param(name="C_T", unit="nats", lower=1e-9, upper=1e9, start=(1e-2, 1e2), centre=centre),
        Param(name="gamma_D", start=(-0.2, 1.5), **slope),
        Param(name="gamma_N", start=(-0.2, 1.5), **slope),
        Param(name="gamma_post", unit="bits", lower=0.05, upper=20.0, start=(0.2, 3.0)),
    )


def penalty(p: Params, N: Any, D: Any, x: dict[str, Array]) -> Any:
    P = x["P_post"]
    log = p["gamma_D"] * np.log(D) - p["gamma_N"] * np.log(N) - P / p["gamma_post"]
    return np.where(off(P), 0.0, p["C_T"] * np.exp(log))
