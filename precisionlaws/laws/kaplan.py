"""L = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D (Kaplan et al. 2020, arXiv 2001.08361, Eq. 1.5).

No loss remains at infinite N and D, and the two terms are coupled: with N → ∞ it is (D_c/D)^α_D, with
D → ∞ (N_c/N)^α_N. Fitted by its authors to models of up to 1.5B non-embedding parameters.
"""

from typing import Any

from precisionlaws.laws.base import Array, Param, Params

COLUMNS = ("N", "D")
LINEAR = ()


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    exponent = {"unit": "", "lower": 1e-3, "upper": 5.0, "start": (0.03, 0.8)}
    # Bounds and starts in units of the data's N and D: N_c is 10^5 to 10^12 times the size of a model.
    constant = {"lower": 1e-30, "upper": 1e60, "start": (1e-2, 1e2)}
    return (
        Param(name="N_c", unit="parameters", centre=(("N", "", 1),), **constant),
        Param(name="alpha_N", **exponent),
        Param(name="D_c", unit="tokens", centre=(("D", "", 1),), **constant),
        Param(name="alpha_D", **exponent),
    )


def loss(p: Params, N: Any, D: Any) -> Any:
    return ((p["N_c"] / N) ** (p["alpha_N"] / p["alpha_D"]) + p["D_c"] / D) ** p["alpha_D"]


def rescale(p: Params, c: Any) -> dict[str, Any]:
    """The constants with which L is c times as large."""
    return {x: p[x] * c ** (1 / p[a]) for x, a in (("N_c", "alpha_N"), ("D_c", "alpha_D"))}


def optimal_N(p: Params, K: Any) -> Any:
    """Effective N of least loss where N·D = K: there r·(N_c/N)^r = D_c/D, r = α_N/α_D."""
    r = p["alpha_N"] / p["alpha_D"]
    return (r * p["N_c"] ** r * K / p["D_c"]) ** (1 / (1 + r))
