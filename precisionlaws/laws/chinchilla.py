"""L = A N^-α + B D^-β + E (Hoffmann et al. 2022, arXiv 2203.15556, Eq. 10).

Holds for unquantized runs whose schedule ends at D, on data that do not repeat. E and the exponents
trade off against each other where N and D span less than a decade or two each.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import Array, Param, Params

COLUMNS = ("N", "D")
LINEAR = ("A", "B", "E")


def params(x: dict[str, Array]) -> tuple[Param, ...]:
    top = float(np.min(x["loss"])) if "loss" in x and np.size(x["loss"]) else 20.0
    exponent = {"unit": "", "lower": 1e-3, "upper": 5.0, "start": (0.05, 1.5)}
    coefficient = {"unit": "nats", "lower": 1e-9, "upper": 1e6, "start": (1e-2, 10.0)}
    return (
        Param(name="A", centre=(("N", "alpha", 1),), **coefficient),
        Param(name="alpha", **exponent),
        Param(name="B", centre=(("D", "beta", 1),), **coefficient),
        Param(name="beta", **exponent),
        # Fitted on its own scale with the bound at 0: on a log scale an unidentified E runs to −∞.
        Param(
            name="E",
            unit="nats",
            lower=0.0,
            upper=0.999 * top,
            start=(0.0, 0.9 * top),
            link="identity",
        ),
    )


def basis(p: Params, N: Any, D: Any) -> dict[str, Any]:
    """What each coefficient of LINEAR multiplies."""
    # An exponential is several times faster than a power.
    return {"A": np.exp(-p["alpha"] * np.log(N)), "B": np.exp(-p["beta"] * np.log(D)), "E": 1.0}


def loss(p: Params, N: Any, D: Any) -> Any:
    unit = basis(p, N, D)
    return p["A"] * unit["A"] + p["B"] * unit["B"] + p["E"]


def grad(p: Params, n: Any, d: Any) -> dict[str, Any]:
    """Loss at log N = n and log D = d, and its derivatives as `laws.base` wants them."""
    n, d = -p["alpha"] * n, -p["beta"] * d
    An, Bd = p["A"] * np.exp(n), p["B"] * np.exp(d)
    return {
        "loss": An + Bd + p["E"], "A": An, "B": Bd, "E": 1.0, "alpha": An * n, "beta": Bd * d,
        "N": lambda: -p["alpha"] * An, "D": lambda: -p["beta"] * Bd,
    }  # fmt: skip


def optimal_N(p: Params, K: Any) -> Any:
    """Effective N of least loss where N·D = K (Hoffmann et al., Eq. 4)."""
    a, b = np.asarray(p["alpha"]), np.asarray(p["beta"])
    with np.errstate(all="ignore"):  # exponents at their bounds: no optimum, and no error either
        return (a * p["A"] / (b * p["B"])) ** (1 / (a + b)) * K ** (b / (a + b))
