"""Quantities that follow from the parameters of a law, and their order of trust.

The data determine some combinations of the coefficients far better than the coefficients themselves: how
much a width is worth, the loss in the middle of the runs, how the best N grows with compute. A and B are
losses extrapolated to one parameter and one token, and come last.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.laws.base import OFF, ROLES, Param

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit

WIDTH = re.compile(r"(eff|eff_w|eff_a|eff_kv|compute|delta)\((\d+(?:\.\d+)?)\)")
EFFICIENCY = ("N_eff/N", "D_eff/D", "N_eff/product")  # units of what a scale multiplies by


def derived(fit: "Fit", name: str, p: Mapping[str, Any]) -> Any:
    """`name` at the parameters or draws `p`; the names are those of `blocks` and eff(P).

    Raises: ValueError with what there is.
    """
    if name == "N_opt_exponent" and {"alpha", "beta"} <= set(p):
        return p["beta"] / (p["alpha"] + p["beta"])
    if name == "L_centre":
        return fit.law.base.loss(p, *_centre(fit.rows))
    if name == "D/N_opt" and hasattr(fit.law.base, "optimal_N"):
        K = _largest(fit.rows)
        with np.errstate(all="ignore"):  # draws of a base that is not identified have any N*
            return K / fit.law.base.optimal_N(p, K) ** 2
    match = WIDTH.fullmatch(name)
    if match and match[1] == "delta" and _delta_widths(fit):
        return _delta(fit, p, float(match[2]))
    if match and match[1] != "delta" and fit.law.on("N"):
        role, P = match[1].partition("_")[2], float(match[2])
        eff = _efficiency(fit, p, P, (role,) if role else tuple(fit.measured))
        return eff * OFF / P if match[1] == "compute" else eff
    shown = [n for rows in blocks(fit) for n, _ in rows if n not in fit.params]
    known = [*fit.params, *shown, *(["eff(P)", "eff_w(P)"] if fit.law.on("N") else [])]
    raise ValueError(
        f"no quantity {name!r} in a fit of {fit.law.full_name}; there are {', '.join(known)}"
    )


def blocks(fit: "Fit") -> list[list[tuple[str, str]]]:
    """(name, unit) of all that is printed: of bits, of the base, exponents, and last the raw coefficients."""
    params = fit.law.params
    bits = [(q.name, q.unit) for q in params if q.unit in EFFICIENCY]
    if fit.law.on("N"):
        bits += [
            (f"eff_{r}({P:g})", "N_eff/N")
            for r, widths in fit.measured.items()
            for P in widths
            if f"eff_{r}[{P:g}]" not in fit.params
        ]
        every = list(fit.measured.values())
        common = sorted(set.intersection(*map(set, every))) if len(every) > 1 else []
        bits += [(f"compute({P:g})", f"eff·16/{P:g}, all roles") for P in common]
    after = {q.name for t in fit.law.paired for q in t.params(fit.law.read(fit.delta_rows))}
    bits += [(q.name, q.unit) for q in params if q.name in after and not raw(q)]
    bits += [(f"delta({P:g})", f"nats {_where(fit.delta_rows)}") for P in _delta_widths(fit)[:2]]
    base = [("L_centre", f"nats {_where(fit.rows)}")]
    if {"alpha", "beta"} <= set(fit.params):
        base.append(("N_opt_exponent", "N* ~ FLOP^x"))
    if hasattr(fit.law.base, "optimal_N"):
        K = _largest(fit.rows)
        base.append(("D/N_opt", f"tokens/parameter at 6ND = {6 * K:.2g}"))
    rest = [q for q in params if (q.unit not in EFFICIENCY and q.name not in after) or raw(q)]
    shape = [(q.name, q.unit) for q in rest if not raw(q)]
    return [bits, base, shape, [(q.name, q.unit) for q in rest if raw(q)]]


def raw(q: Param) -> bool:
    """A coefficient at one parameter, one token or infinitely many, none of which was trained."""
    return bool(q.centre) or q.name == "E"


def _centre(rows: Any) -> tuple[float, float]:
    N, D = (float(np.exp(np.mean(np.log(rows[c].to_numpy(float))))) for c in ("N", "D"))
    return N, D


def _largest(rows: Any) -> float:
    """N·D of the largest run; whole numbers of 64 bits end before those of a large model."""
    return float(np.max(rows["N"].to_numpy(float) * rows["D"].to_numpy(float)))


def _where(rows: Any) -> str:
    N, D = _centre(rows)
    return f"at N = {_short(N)}, D = {_short(D)}"


def _short(v: float) -> str:
    """19k, 176M: as overrides write them."""
    fits = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    cut, unit = next(((c, u) for c, u in fits if v >= c), (1.0, ""))
    return f"{v / cut:.3g}{unit}"


def _efficiency(fit: "Fit", p: Mapping[str, Any], P: float, roles: tuple[str, ...]) -> Any:
    x = {f"P_{r}": np.array(P if r in roles and r in fit.measured else OFF) for r in ROLES}
    with np.errstate(all="ignore"):
        return np.asarray(fit.law.scale(p, x)) + 0.0


def _delta_widths(fit: "Fit") -> list[float]:
    """Widths of PTQ at which δ needs nothing but N and D."""
    if not fit.law.paired or {c for t in fit.law.paired for c in t.COLUMNS} - {"P_post"}:
        return []
    P = fit.delta_rows["P_post"].unique()
    return sorted(float(b) for b in P)


def _delta(fit: "Fit", p: Mapping[str, Any], P: float) -> Any:
    N, D = (np.array(v) for v in _centre(fit.delta_rows))
    return fit.law.penalty(p, {"N": N, "D": D, "P_post": np.array(P)}, fit.law.paired)
