"""What a law is: a base loss(N, D), scales that multiply N or D, and penalties that add nats.

A base or a term is a module of this package, found by its name:

    base   LINEAR, params(x), loss(p, N, D), and where known basis(p, N, D), optimal_N(p, K), rescale(p, c) and
           grad(p, log N, log D): "loss"; its derivatives by log v of each parameter v (by v itself if its link is
           identity); and under "N" and "D" functions that give those by log N and log D
    scale  COLUMNS, ON ("N" or "D"), params(x), scale(p, x); BESIDE if it corrects another scale; where each
             parameter multiplies (link log), slopes(p, x) saves the derivatives: d ln scale / d ln of each
    penalty  COLUMNS, params(x), penalty(p, N, D, x); PAIRED if it is what rounding a finished run costs

A penalty with PAIRED is fitted to paired δ, any other to losses. A term whose columns are more than N, D
and widths may make them itself: read(frame, x).

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
    coefficient becomes v / c^(sign · exponent), which takes the A-α ridge out of the search; an empty
    exponent is 1.
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

    def on(self, column: str) -> tuple[ModuleType, ...]:
        """Scales of N, or of D."""
        return tuple(t for t in self.scales if column == t.ON)

    @property
    def penalties(self) -> tuple[ModuleType, ...]:
        return tuple(t for t in self.terms if hasattr(t, "penalty"))

    @property
    def paired(self) -> tuple[ModuleType, ...]:
        """Penalties of rounding a finished run: fitted to δ."""
        return tuple(t for t in self.penalties if getattr(t, "PAIRED", False))

    @property
    def added(self) -> tuple[ModuleType, ...]:
        """Penalties of training at low precision: part of every loss."""
        return tuple(t for t in self.penalties if not getattr(t, "PAIRED", False))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns the law reads; widths (P_*) have the neutral value 16, the others are required."""
        return ("N", "D", *dict.fromkeys(c for t in self.terms for c in t.COLUMNS))

    def read(self, frame: Any, *more: str) -> dict[str, Array]:
        """The law's columns, and `more`, as float arrays."""
        own = {c for t in self.terms if hasattr(t, "read") for c in t.COLUMNS if c not in BITS}
        x = columns(frame, (*(c for c in self.columns if c not in own), *more))
        for term in self.terms:
            if hasattr(term, "read"):
                x.update(term.read(frame, x))
        return x

    def bind(self, frame: Any, delta: Any = None) -> "Law":
        """The law with the parameters that these losses, and these paired δ, can speak of."""
        x = self.read(frame, "loss")
        pairs = x if delta is None or len(delta) == 0 else self.read(delta, "loss")
        found = [
            q for m in (self.base, *self.terms) for q in m.params(pairs if m in self.paired else x)
        ]
        names = [q.name for q in found]
        for term in self.terms:
            lacking = [name for name in getattr(term, "NEEDS", ()) if name not in names]
            if lacking:
                raise ValueError(
                    f"{_short(term)} reads {', '.join(lacking)} of the base, which {_short(self.base)} does not have"
                )
            if getattr(term, "BESIDE", False) and len(self.on(term.ON)) < 2:
                raise ValueError(
                    f"{_short(term)} corrects another scale of {term.ON} and says nothing alone: neff_free+{_short(term)}, say"
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.full_name}: two terms both have {', '.join(twice)}")
        return replace(self, params=tuple(found))

    def scale(self, params: Params, x: Mapping[str, Array], on: str = "N") -> Any:
        """What N (or D) is multiplied by; no check of the domain, complex arguments allowed."""
        out: Any = 1.0
        for term in self.scales:
            if on == term.ON:
                out = out * term.scale(params, x)
        return out

    def loss(self, params: Params, frame: Any) -> Array:
        """Nats per token: scales, then the base, then penalties. Parameter arrays broadcast over rows."""
        x = self.read(frame)
        self.check(params, x)
        return self.evaluate(params, x)

    def check(self, params: Params, x: Mapping[str, Array]) -> None:
        """ValueError where a scale is undefined."""
        for term in self.scales:
            with np.errstate(all="ignore"):
                s = np.asarray(np.real(term.scale(params, x)))
            if np.any(~(s > 0)):
                why = (
                    term.domain(params, x)
                    if hasattr(term, "domain")
                    else "the scale is not positive"
                )
                raise ValueError(f"{_short(term)} is undefined here: {why}")

    def evaluate(self, params: Params, x: Mapping[str, Array]) -> Array:
        """`loss` without its checks: NaN outside the domain of a term."""
        with np.errstate(all="ignore"):
            total = self.base.loss(
                params, *(x[on] * self._positive(params, x, on) for on in ("N", "D"))
            )
            return np.asarray(total + self.penalty(params, x))

    def penalty(
        self,
        params: Params,
        x: Mapping[str, Array],
        terms: tuple[ModuleType, ...] | None = None,
    ) -> Any:
        """The penalties alone, all or some, nats per token."""
        at = [x["N"], x["D"]]
        if self.penalties_on == "effective":
            at = [x[on] * self._positive(params, x, on) for on in ("N", "D")]
        return sum(
            (t.penalty(params, *at, x) for t in (self.penalties if terms is None else terms)),
            start=0.0,
        )

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


def named_formats(x: Mapping[str, Array]) -> Array:
    """What each row quantizes in training, as w4a4kv8; empty at 16 bits."""
    P = np.stack(np.broadcast_arrays(*(np.real(x[f"P_{role}"]) for role in ROLES)), -1)
    combos, index = np.unique(P.reshape(-1, len(ROLES)), axis=0, return_inverse=True)
    names = [
        "".join(f"{role}{b:g}" for role, b in zip(ROLES, row, strict=True) if b < OFF)
        for row in combos
    ]
    return np.array(names)[np.ravel(index)].reshape(P.shape[:-1])


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
