"""Rolling origins: fit the smaller runs, predict the next larger ones, at every size where both exist.

Runs are put in levels of rising N·D, N or D. An origin fits the levels up to one and predicts the AHEAD
levels after it; all origins are weights over the same rows, so that they are refitted as one batch. A run
is predicted only where runs of its widths were fitted: which rows are scored depends on no law.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from precisionlaws.fitting.objective import Block
from precisionlaws.fitting.rows import Table
from precisionlaws.fitting.solve import minimise, starts, thresholds
from precisionlaws.laws import Law
from precisionlaws.laws.base import BITS, Array, columns, named_formats

BY = ("compute", "N", "D")
AHEAD = 2  # levels that one origin predicts
LEVELS = 10  # at most, of about equally many runs
SAME = 0.05  # of log size: sizes this close are one level
DISTINCT = 3  # values of N and of D among the fitted runs: fewer cannot tell an exponent from E
STARTS = 4  # screened starts of each origin, beside the minimum of all rows
PATIENCE = 100  # steps: predictions settle long before coefficients do
TOLERANCE = 1e-5  # Newton decrement relative to the objective


class NoOrigin(ValueError):
    """The rows leave nothing to predict, or too little to predict it from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Origins:
    """Which rows each origin fits and which it predicts, in order of size."""

    by: str
    edge: Array  # (K,) largest size fitted, in units of `by`
    fitted: Array  # (K, n) bool
    scored: Array  # (K, n) bool

    def pairs(self) -> tuple[Array, Array]:
        """Origin and row of every prediction."""
        origin, row = np.nonzero(self.scored)
        return origin, row


def origins(
    table: Table, laws: Sequence[Law], by: str = "compute", *, delta: bool = False
) -> Origins:
    """The origins at which the fitted rows can determine every law.

    delta: the rows are paired δ, and what they are to determine are the laws' PTQ terms.

    Raises: NoOrigin, with what the rows lack.
    """
    if by not in BY:
        raise ValueError(f"a hold-out is by one of {', '.join(BY)}, got {by!r}")
    laws = list(laws) if delta else [trained(one) for one in laws]
    size = sizes(table)[by]
    level = levels(size)
    kinds = formats(table, delta=delta)
    found = []
    for last in range(level.max()):
        fitted = level <= last
        ahead = (level > last) & (level <= last + AHEAD)
        scored = ahead & np.isin(kinds, np.unique(kinds[fitted]))
        if scored.any() and determines(table[fitted], laws, delta=delta):
            found.append((size[fitted].max(), fitted, scored))
    if not found:
        raise NoOrigin(_none(table, laws, by, int(level.max()) + 1, delta=delta))
    edge, fitted, scored = zip(*found, strict=True)
    return Origins(by=by, edge=np.array(edge), fitted=np.array(fitted), scored=np.array(scored))


def trained(law: Law) -> Law:
    """The law of the losses, without what rounding a finished run adds."""
    return replace(law, terms=tuple(t for t in law.terms if t not in law.paired))


def sizes(x: Table) -> dict[str, Array]:
    """N, D and N·D of rows."""
    N, D = (np.asarray(x[c], float) for c in ("N", "D"))
    return {"compute": N * D, "N": N, "D": D}


def levels(size: Array) -> Array:
    """Level of each row, 0 the smallest: equal sizes are never split."""
    order = np.argsort(size, kind="stable")
    log, first, group = np.log(size[order]), -np.inf, -1
    groups = np.empty(len(size), int)
    for i, value in zip(order, log, strict=True):
        if value - first > SAME:
            first, group = value, group + 1
        groups[i] = group
    count = np.bincount(groups)
    if len(count) > LEVELS:  # join neighbours, by the share of runs below the middle of each
        middle = (np.cumsum(count) - count / 2) / count.sum()
        groups = np.floor(middle * LEVELS).astype(int)[groups]
    return np.unique(groups, return_inverse=True)[1]


def determines(table: Table, laws: Sequence[Law], *, delta: bool = False) -> bool:
    """The rows are more than the parameters that they speak of, and have DISTINCT values of N and D (of δ: 2)."""
    few = any(distinct(table[c]) < (2 if delta else DISTINCT) for c in ("N", "D"))
    return not few and all(len(table) > 1 + _count(one, table, delta) for one in laws)


def _count(law: Law, table: Table, delta: bool) -> int:
    if not delta:
        return len(law.bind(table).params)
    x = law.read(table, "loss")
    return len({q.name for term in law.paired for q in term.params(x)})


def formats(table: Table, *, delta: bool = False) -> Array:
    """What each row quantizes, in training and, of δ, after it."""
    x = widths(table)
    names = named_formats(x)
    if not delta:
        return names
    return np.array([f"{name}p{P:g}" for name, P in zip(names, x["P_post"], strict=True)])


def distinct(values: Table) -> int:
    """How many values there are at least SAME apart: of evenly spread ones too."""
    log, at, count = np.unique(np.log(np.asarray(values, float))), 0, 0
    while at < len(log):
        at, count = int(np.searchsorted(log, log[at] + SAME, side="right")), count + 1
    return count


def refit(
    b: Block,
    delta: float,
    table: Table,
    fitted: Array,
    *,
    near: Array | None = None,
    held: Mapping[str, float] | None = None,
) -> Array:
    """Minima (K, p) of a loss block over the rows of each origin, within the bounds that those rows alone give.

    near: the minimum of all rows (p,), the only start; without it each origin has screened starts of its own,
    and then the minimum of the last origin. held: parameters that do not move, as u.
    """
    W = fitted.astype(float)
    box = np.array([_box(b, table[f], held or {}) for f in fitted])  # (K, 2, p)
    if near is not None:
        return _best(b, np.repeat(near[None, None], len(W), 0), delta, W, box)[0]
    own, value = _best(b, np.stack([starts(b, w)[:STARTS] for w in W]), delta, W, box)
    other, least = _best(b, np.repeat(own[None, -1:], len(W), 0), delta, W, box)
    return np.where((least < value)[:, None], other, own)


def _best(b: Block, first: Array, delta: float, W: Array, box: Array) -> tuple[Array, Array]:
    """The best minimum of each origin and its value; first (K, S, p)."""
    K, S, p = first.shape
    u = first.reshape(K * S, p)
    W, box = np.repeat(W, S, 0), np.repeat(box, S, 0)
    low, high = box[:, 0], box[:, 1]
    for d in thresholds(b, delta) if S > 1 else ():
        u = minimise(b, u, d, W=W, lower=low, upper=high, tol=1e-3, steps=20).u
    found = minimise(b, u, delta, W=W, lower=low, upper=high, tol=TOLERANCE, steps=PATIENCE)
    place, each = found.value.reshape(K, S).argmin(1), np.arange(K)
    return found.u.reshape(K, S, p)[each, place], found.value.reshape(K, S)[each, place]


def errors(b: Block, u: Array, at: Origins) -> Array:
    """Measured less predicted log loss of every pair of `Origins.pairs`."""
    k, i = at.pairs()
    return (b.y - b.predict(u))[k, i]


def largest(at: Origins, values: Array, kinds: Array, size: Array) -> Array:
    """For every pair of `Origins.pairs` the value of the largest fitted row of its kind."""
    out = []
    for k, i in zip(*at.pairs(), strict=True):
        same = np.nonzero(at.fitted[k] & (kinds == kinds[i]))[0]
        out.append(values[same[np.argmax(size[same])]])
    return np.array(out)


def scores(
    at: Origins, errors: Mapping[str, Array], beyond: Array, said: Mapping[str, Array]
) -> Table:
    """A row per origin and model, and a pooled row for each (origin "all").

    errors: of each model, of every pair of `Origins.pairs`; said: what the first model's intervals tell of
    each pair, by column; beyond: decades outside the fitted rows.
    """
    import pandas as pd

    origin, rows = at.pairs()[0], []
    for k in (*range(len(at.edge)), None):
        here = np.full(len(origin), True) if k is None else origin == k
        first = {
            "by": at.by, "origin": "all" if k is None else str(k + 1), "up_to": np.nan if k is None else at.edge[k],
            "fitted": at.fitted.sum(1).max() if k is None else at.fitted[k].sum(), "predicted": here.sum(),
            "beyond": beyond[here].max(),
        }  # fmt: skip
        for number, (name, error) in enumerate(errors.items()):
            e = error[here]
            own = {c: v[here].mean() if number == 0 else np.nan for c, v in said.items()}
            rows.append({**first, "model": name, "rms": np.sqrt(np.mean(e**2)), "bias": e.mean(), **own})  # fmt: skip
    return pd.DataFrame(rows)


def beyond(new: Table, known: Table) -> Array:
    """How far rows lie outside others: log of the ratio to the nearest N, D or N·D, the largest of the three."""
    out = np.zeros(len(sizes(new)["N"]))
    for name, size in sizes(new).items():
        log, ends = np.log(size), np.log(sizes(known)[name])
        out = np.maximum(out, np.maximum(log - ends.max(), ends.min() - log))
    return out


def widths(table: Table) -> dict[str, Array]:
    x = columns(table, BITS)
    return {c: v + np.zeros(len(table)) for c, v in x.items()}


def _box(b: Block, table: Table, held: Mapping[str, float]) -> tuple[Array, Array]:
    lower, upper = b.lower.copy(), b.upper.copy()
    own = {q.name: q for q in b.law.bind(table).params}
    for j, q in enumerate(b.params):
        if q.link == "identity" and q.name in own:  # such as E, below the least loss
            lower[j], upper[j] = own[q.name].lower, own[q.name].upper
        if q.name in held:
            lower[j] = upper[j] = held[q.name]
    return lower, upper


def _none(table: Table, laws: Sequence[Law], by: str, count: int, *, delta: bool) -> str:
    what, rows = {"compute": "N·D"}.get(by, by), "δ" if delta else "rows"
    most = max(laws, key=lambda one: _count(one, table, delta))
    return (
        f"no hold-out{' of δ' if delta else ''} by {by}: {len(table)} {rows} have {count} level(s) of {what}, {distinct(table['N'])} of N and "
        f"{distinct(table['D'])} of D; the smaller runs must have {2 if delta else DISTINCT} values of N and of D and more {rows} than the "
        f"{_count(most, table, delta)} parameters of {most.full_name}, and larger ones the same widths"
    )
