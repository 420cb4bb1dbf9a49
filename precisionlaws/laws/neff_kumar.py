"""N_eff = N · ∏_x (1 − e^(−P_x/γ_x + n_x)), x in weights, activations, KV cache
(Kumar et al. 2024, arXiv 2411.04330, Eq. 4 with the offsets n_x of Appendix K).

Trained with integer fake quantization in the forward pass, 3-12 bits, 30M-220M parameters. The main
text prints the form without n_x, but the published optimum of 7-8 bits needs them. The factor of role
x is zero at n_x·γ_x bits (published: 3.11 for activations) and the law is undefined from there down.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import OFF, ROLES, Array, Param, Params, off, widths

COLUMNS = ("P_w", "P_a", "P_kv")
ON = "N"
CONTINUOUS = True  # defined between the widths that were trained


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    out = []
    for role in ROLES:
        P = widths(x, f"P_{role}")
        if P:
            out.append(
                Param(name=f"gamma_{role}", unit="bits", lower=0.1, upper=20.0, start=(0.4, 6.0))
            )
        if len(P) > 1:  # one width cannot tell an offset from γ
            out.append(
                Param(name=f"n_{role}", unit="", lower=1e-3, upper=30.0, start=(0.2, 4.0), link="below", of=f"gamma_{role}", at=P[0])
            )  # fmt: skip
    return tuple(out)


def scale(p: Params, x: dict[str, Array]) -> Any:
    out: Any = 1.0
    for role in ROLES:
        P = x[f"P_{role}"]
        if f"gamma_{role}" in p:
            out = out * np.where(
                off(P), 1.0, -np.expm1(-P / p[f"gamma_{role}"] + p.get(f"n_{role}", 0.0))
            )
        elif np.any(~off(P)):
            raise ValueError(
                f"neff_kumar has no gamma_{role}, but P_{role} is below {OFF:g} bits; parameters: {', '.join(p)}"
            )
    return out


def domain(p: Params, x: dict[str, Array]) -> str:
    """Which role is quantized below the width at which its factor is zero."""
    for role in ROLES:
        zero = (
            np.max(p.get(f"n_{role}", 0.0) * p[f"gamma_{role}"])
            if f"gamma_{role}" in p
            else -np.inf
        )
        low = np.min(x[f"P_{role}"])
        if low <= zero:
            return f"P_{role} = {low:g} bits, and 1 − exp(−P/γ_{role} + n_{role}) is zero or negative up to {zero:.2f} bits"
    return "parameters are not numbers"


def notes(x: dict[str, Array]) -> tuple[str, ...]:
    """What the data cannot say about this term."""
    single = {r: widths(x, f"P_{r}") for r in ROLES}
    return tuple(
        f"P_{r}: only {P[0]:g} bits were trained, which cannot tell γ_{r} from an offset: n_{r} is taken as 0"
        for r, P in single.items()
        if len(P) == 1
    )
