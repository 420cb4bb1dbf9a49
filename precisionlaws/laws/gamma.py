"""L = (A N^-α + B D^-β)^γ + E (Busbridge et al. 2025, arXiv 2502.08606; Castro et al. 2025, arXiv 2505.14669).

Chinchilla is γ = 1. γ < 1 bends the curves along which N and D trade for each other, which runs over
more than a decade and a half of D/N can show; over less, γ and the exponents are not told apart.
"""

from typing import Any

import numpy as np

from precisionlaws.laws import chinchilla
from precisionlaws.laws.base import Array, Param, Params

COLUMNS = ("N", "D")
LINEAR = ("E",)


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    *powers, E = chinchilla.params(x)
    # Between 0 and 1 in every published fit; the upper bound only keeps the search finite.
    return (*powers, Param(name="gamma", unit="", lower=0.02, upper=5.0, start=(0.15, 1.5)), E)


def loss(p: Params, N: Any, D: Any) -> Any:
    return (p["A"] * N ** -p["alpha"] + p["B"] * D ** -p["beta"]) ** p["gamma"] + p["E"]


def grad(p: Params, n: Any, d: Any) -> dict[str, Any]:
    """Loss at log N = n and log D = d, and its derivatives as `laws.base` wants them."""
    inner = chinchilla.grad({**p, "E": 0.0}, n, d)
    log = p["gamma"] * np.log(inner["loss"])
    power = np.exp(log)
    outer = p["gamma"] * power / inner["loss"]
    chained = {k: outer * inner[k] for k in ("A", "alpha", "B", "beta")}
    return {
        **chained, "loss": power + p["E"], "gamma": power * log, "E": 1.0,
        "N": lambda: outer * inner["N"](), "D": lambda: outer * inner["D"](),
    }  # fmt: skip


def rescale(p: Params, c: Any) -> dict[str, Any]:
    """The coefficients with which L − E is c times as large."""
    return {name: p[name] * c ** (1 / p["gamma"]) for name in ("A", "B")}


def optimal_N(p: Params, K: Any) -> Any:
    """Effective N of least loss where N·D = K: γ is monotone, so Chinchilla's."""
    return chinchilla.optimal_N(p, K)
