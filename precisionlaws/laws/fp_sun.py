"""δ = (D^β / N^α) · log₂ G / (γ (E + ½)^δ (M + ½)^ν), nats added by training in floating point with E
exponent and M mantissa bits and G values per scale (Sun et al. 2025, arXiv 2501.02423, Eq. 7).

α and β are those of the base. Columns E, M and G give the layout; where they are empty nothing is
quantized. Inputs of all three matrix products are quantized, in models of 41M to 679M parameters. An E4M3
model of 1B gains from data up to 27T tokens, an E2M1 model up to 0.4T: D_crit of a plan.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import ROLES, Array, Param, Params, off

COLUMNS = ("P_w", "P_a", "P_kv", "E", "M", "G")
LINEAR = ()
CONTINUOUS = True
SETTINGS = ("group", "granularity")  # of a format, which may vary because G says what they do
NEEDS = ("alpha", "beta")  # of the base


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    E, M = (np.unique(x[c][np.isfinite(x[c])]) for c in ("E", "M"))
    if len(E) == 0:
        return ()
    layout = {"unit": "", "lower": 0.01, "upper": 20.0, "start": (0.5, 6.0)}
    centre = (("N", "alpha", -1), ("D", "beta", 1))
    out = [
        Param(name="gamma_fp", unit="1/nats", lower=1e-6, upper=1e15, start=(1e-1, 1e4), centre=centre)
    ]  # fmt: skip
    # One value of E (or M) cannot tell its exponent from γ.
    out += [Param(name="delta_fp", **layout)] if len(E) > 1 else []
    out += [Param(name="nu_fp", **layout)] if len(M) > 1 else []
    return tuple(out)


def penalty(p: Params, N: Any, D: Any, x: dict[str, Array]) -> Any:
    plain = np.isnan(x["E"])
    if np.all(plain):
        return 0.0
    E, M, G = (np.where(plain, 2.0, x[c]) for c in ("E", "M", "G"))
    lost = (E + 0.5) ** p.get("delta_fp", 0.0) * (M + 0.5) ** p.get("nu_fp", 0.0)
    grow = np.exp(p["beta"] * np.log(D) - p["alpha"] * np.log(N))
    return np.where(plain, 0.0, grow * np.log2(G) / (p["gamma_fp"] * lost))


def at(p: Params, x: dict[str, Array], G: float) -> dict[str, Any]:
    """The best real-valued layout at the width of x, E + M + 1 = P; nothing where P is 16."""
    if not {"delta_fp", "nu_fp"} <= set(p):
        raise ValueError("fp_sun plans layouts only from runs with several E and several M")
    P = x["P_w"]
    E, M = (P * p[k] / (p["delta_fp"] + p["nu_fp"]) - 0.5 for k in ("delta_fp", "nu_fp"))
    return {"E": np.where(off(P), np.nan, E), "M": np.where(off(P), np.nan, M), "G": np.array(G)}


def read(frame: Any, x: dict[str, Array]) -> dict[str, Array]:
    """E, M and G of each row; all three, or none where nothing is quantized."""
    empty = np.full(np.shape(x["P_w"]), np.nan)
    out = {c: np.asarray(frame[c], float) if c in frame else empty for c in ("E", "M", "G")}
    E, M, G = (np.isfinite(v) for v in np.broadcast_arrays(*out.values()))
    below = ~np.logical_and.reduce([off(x[f"P_{role}"]) for role in ROLES])
    if np.any(E != M) or np.any(E & ~G) or np.any(below & ~E):
        raise ValueError(
            "fp_sun needs E, M and G (bits of exponent and mantissa, values per scale) of every quantized run"
        )
    values = [np.where(E, v, 1.0) for v in out.values()]
    if np.any(values[0] < 0) or np.any(values[1] < 0) or np.any(values[2] < 1):
        raise ValueError("fp_sun needs E ≥ 0, M ≥ 0 and G ≥ 1")
    return out
