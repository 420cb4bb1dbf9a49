"""What a law is: a base loss(N, D), scales that multiply N or D, and penalties that add nats.

A base or a term is a module of this package, found by its name:

    base   LINEAR, params(x), loss(p, N, D), and where known grad(p, N, D) and optimal_N(p, K)
    scale  COLUMNS, ON ("N" or "D"), params(x), scale(p, x)
    penalty  COLUMNS, params(x), penalty(p, N, D, x)

`p` maps parameter names to numbers or arrays, `x` maps columns to arrays. 16 bits means not
quantized, so every scale is exactly 1 there and every penalty exactly 0, whatever the formula says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

OFF = 16.0  # bits: not quantized
ROLES = ("w", "a", "kv")
BITS = ("P_w", "P_a", "P_kv", "P_post")
Array = NDArray[Any]
Params = Mapping[str, Any]


def off(P: ArrayLike) -> Array:
    """True where a tensor is not quantized."""
    return np.real(P) >= OFF


@dataclass(frozen=True, kw_only=True)
class Param:
    """One coefficient: its unit, its bounds, where a search starts, and how it is fitted.

    `log` and `identity` are fitted as log v and v. `below` keeps a law defined at `at` bits: an offset
    n with n < at/v[of] is fitted as log(at/v[of] − n), whose bounds and start are given instead of n's.
    `centre` holds (column, exponent, sign): with the column in units of its geometric mean c the
    coefficient becomes v / c^(sign · exponent), which takes the A-α ridge out of the search.
    """

    name: str
    unit: str
    lower: float
    upper: float
    start: tuple[float, float]
    link: Literal["log", "identity", "below"] = "log"
    of: str = ""
    at: float = 0.0
    centre: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Law:
    """A named composition; `params` is filled by `bind`, once the data say which roles and widths vary."""

    name: str
    base: ModuleType
    terms: tuple[ModuleType, ...] = ()
    penalties_on: Literal["nominal", "effective"] = "nominal"
    source: str = ""
    published: Mapping[str, float] | None = None
    params: tuple[Param, ...] = ()

    @property
    def full_name(self) -> str:
        return "+".join(_short(m) for m in (self.base, *self.terms))

    @property
    def scales(self) -> tuple[ModuleType, ...]:
        return tuple(t for t in self.terms if hasattr(t, "scale"))

    @property
    def penalties(self) -> tuple[ModuleType, ...]:
        return tuple(t for t in self.terms if hasattr(t, "penalty"))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns the law reads; widths (P_*) have the neutral value 16, the others are required."""
        return ("N", "D", *dict.fromkeys(c for t in self.terms for c in t.COLUMNS))

    def bind(self, frame: Any) -> "Law":
        """The law with the parameters that these data can speak of."""
        x = columns(frame, (*self.columns, "loss"))
        return replace(self, params=tuple(q for m in (self.base, *self.terms) for q in m.params(x)))

    def scale(self, params: Params, x: Mapping[str, Array], on: str = "N") -> Any:
        """What N (or D) is multiplied by; no check of the domain, complex arguments allowed."""
        out: Any = 1.0
        for term in self.scales:
            if on == term.ON:
                out = out * term.scale(params, x)
        return out

    def loss(self, params: Params, frame: Any) -> Array:
        """Nats per token: scales, then the base, then penalties. Parameter arrays broadcast over rows."""
        x = columns(frame, self.columns)
        for term in self.scales:
            if np.any(~(np.real(term.scale(params, x)) > 0)):
                why = (
                    term.domain(params, x)
                    if hasattr(term, "domain")
                    else "the scale is not positive"
                )
                raise ValueError(f"{_short(term)} is undefined here: {why}")
        return self.evaluate(params, x)

    def evaluate(self, params: Params, x: Mapping[str, Array]) -> Array:
        """`loss` without its checks: NaN outside the domain of a term."""
        with np.errstate(all="ignore"):
            total = self.base.loss(
                params, *(x[on] * self._positive(params, x, on) for on in ("N", "D"))
            )
            return np.asarray(total + self.penalty(params, x))

    def penalty(self, params: Params, x: Mapping[str, Array]) -> Any:
        """The penalties alone, nats per token."""
        at = [x["N"], x["D"]]
        if self.penalties_on == "effective":
            at = [x[on] * self._positive(params, x, on) for on in ("N", "D")]
        return sum((t.penalty(params, *at, x) for t in self.penalties), start=0.0)

    def _positive(self, params: Params, x: Mapping[str, Array], on: str) -> Any:
        s = self.scale(params, x, on)
        return np.where(np.real(s) > 0, s, np.nan)


def columns(frame: Any, names: tuple[str, ...]) -> dict[str, Array]:
    """The named columns as float arrays; absent or empty widths are 16, an absent `loss` is left out."""
    have = list(frame.keys())
    missing = [c for c in names if c not in have and c not in BITS and c != "loss"]
    if missing:
        raise ValueError(
            f"the law needs the column(s) {', '.join(missing)}; there are {', '.join(map(str, have))}"
        )
    out = {c: np.asarray(frame[c], dtype=float) for c in names if c in have}
    for c in (c for c in names if c in BITS):
        out[c] = np.where(np.isnan(out[c]), OFF, out[c]) if c in out else np.array(OFF)
    return out


def widths(x: Mapping[str, Array], column: str) -> tuple[float, ...]:
    """Widths below 16 that occur in a column."""
    P = np.unique(np.atleast_1d(x.get(column, np.array(OFF))))
    return tuple(float(b) for b in P[P < OFF])


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
