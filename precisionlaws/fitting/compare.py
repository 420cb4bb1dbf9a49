"""Several laws on the same losses: in sample, and at predicting larger runs from smaller ones.

In sample the richer law wins. What a plan needs is the law that errs least beyond the data, so laws are
ranked by rolling-origin errors, and a model confidence set says which of them the data cannot tell apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import confidence_set, rolling
from precisionlaws.fitting.objective import Block, block, huber
from precisionlaws.fitting.rows import Table, centre, select
from precisionlaws.fitting.solve import minimise
from precisionlaws.laws import Law
from precisionlaws.laws import law as known
from precisionlaws.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["N", "D", "P_w", "P_a", "P_kv", "loss", "family"]


def compare(
    frame: "pd.DataFrame",
    laws: Sequence[Law | str],
    *,
    by: str = "compute",
    level: float = 0.95,
    delta: float = 1e-3,
    seed: int = 0,
) -> "pd.DataFrame":
    """One row per law, the best predictor first.

    parameters, huber, rms, aicc    in sample: Huber sum, rms of log residuals; AICc takes rows as independent
    heldout_rms, low, high          rms of log loss at the next two levels of size (`by`: compute, N or D), over
                                    all rolling origins, with an interval over families
    excess, excess_low, excess_high heldout_rms less that of the best law, paired
    p, in_set                       of the model confidence set at `level` (`confidence_set`)

    Every law is compared on the rows that all of them speak of. PTQ penalties are left out:
    `foretell.compare_delta` compares them by δ.
    """
    import pandas as pd

    chosen = [known(entry) if isinstance(entry, str) else entry for entry in laws]
    chosen = list({one.full_name: one for one in map(rolling.trained, chosen)}.values())
    table = on_common_rows([select(frame, one).loss for one in chosen])
    at = rolling.origins(table, chosen, by)
    rows, errors = [], []
    for one in chosen:
        b = block("loss", one.bind(table), table, centre(table))
        u = rolling.refit(b, delta, table, np.vstack([at.fitted, np.ones(len(table), bool)]))
        whole = minimise(b, u[-1:], delta, exact=True).u
        rows.append({**named(one), **_inside(b, whole, delta)})
        errors.append(rolling.errors(b, u[:-1], at))
    family = table["family"].to_numpy(str)[at.pairs()[1]]
    out = pd.DataFrame(rows).assign(
        of="loss", by=by, origins=len(at.edge), families=len(np.unique(family)), heldout=len(family)
    )
    judged = judge(np.array(errors).T ** 2, family, level, seed)
    return out.assign(**judged).sort_values("heldout_rms", kind="stable", ignore_index=True)


def on_bases(laws: Sequence[Law], bases: Sequence[str]) -> list[Law]:
    """Every base with the terms of every law."""
    out: dict[str, Law] = {}
    for base in map(known, bases):
        if base.terms:
            raise ValueError(f"a base has no terms, got {base.full_name}; name it without them")
        for one in laws:
            new = replace(one, base=base.base, source="", published=None)
            out.setdefault(new.full_name, replace(new, name=new.full_name))
    return list(out.values())


def verdict(table: "pd.DataFrame") -> list[str]:
    """What a comparison says, in sentences: the best law, what is not told from it, and whether it hangs on the base."""
    t: Any = table
    best = t.iloc[0]
    said = [
        f"{best['full_name']} predicts {_errs(best)}, "
        f"{best['heldout']} predictions from {best['origins']} origins by {best['by']}, {best['families']} families"
    ]
    rest = t[t["in_set"]]["full_name"].tolist()
    if len(rest) > 1:
        said.append(f"the data do not separate {_listed(rest)}")
    if 1 < len(rest) == len(t) and best["families"] < confidence_set.ENOUGH:
        said.append(f"at 95% that takes predictions of at least {confidence_set.ENOUGH} families")
    if len(t) - len(rest) > 0:
        said.append(
            f"chance does not explain how much worse {_listed(t[~t['in_set']]['full_name'].tolist())} predict"
        )
    return said + _flips(t)


def _flips(t: Any) -> list[str]:
    """Bases that were given the same terms, and do not agree on the best."""
    sets = {base: frozenset(group["terms"]) for base, group in t.groupby("base", sort=False)}
    shared = frozenset.intersection(*sets.values())
    if len(sets) < 2 or len(shared) < 2:
        return []
    first = t[t["terms"].isin(shared)].drop_duplicates("base")  # rows are in order of error
    if first["terms"].nunique() == 1:
        return []
    each = ", ".join(f"with {b} {x or 'no term'}" for b, x in zip(first["base"], first["terms"], strict=True))  # fmt: skip
    return [f"the ranking of terms flips with the base: {each} is best"]


def on_common_rows(tables: list[Table], more: Sequence[str] = ()) -> Table:
    """The rows that are in all tables, with the columns of all."""
    import pandas as pd

    keys = [list(t[[*KEYS, *more]].itertuples(index=False, name=None)) for t in tables]
    both = set.intersection(*map(set, keys))
    if not both:
        raise ValueError("no row is left that all of these laws speak of; compare fewer of them")
    kept = [
        t[[k in both for k in own]].reset_index(drop=True)
        for t, own in zip(tables, keys, strict=True)
    ]
    merged = pd.concat(kept, axis=1)
    return merged.loc[:, ~merged.columns.duplicated()]


def named(law: Law) -> dict[str, str]:
    base, _, terms = law.full_name.partition("+")
    return {"law": law.name, "full_name": law.full_name, "base": base, "terms": terms}


def _inside(b: Block, u: Array, delta: float) -> dict[str, float]:
    n, k = len(b.y), len(b.params)
    r = b.y - b.predict(u)[0]
    square, value = float(np.mean(r**2)), float(huber(r, np.ones(n), delta))
    aicc = n * np.log(square) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1)
    return {"n": n, "parameters": k, "huber": value, "rms": float(np.sqrt(square)), "aicc": aicc}


def judge(squares: Array, family: Array, level: float, seed: int) -> dict[str, Array]:
    """Columns over laws; squares (predictions, laws)."""
    mean, deviation = confidence_set.spread(squares, family, seed)
    p = confidence_set.p_values(squares, family, seed)
    rms, draws = np.sqrt(mean), np.sqrt(np.maximum(mean + deviation, 0.0))
    best = int(np.argmin(mean))
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(draws, ends, axis=0)
    less, more = np.quantile(draws - draws[:, [best]], ends, axis=0)
    return {
        "heldout_rms": rms, "low": low, "high": high, "excess": rms - rms[best], "excess_low": less,
        "excess_high": more, "p": p, "in_set": p > 1 - level,
    }  # fmt: skip


def _errs(row: Any) -> str:
    names = ("heldout_rms", "low", "high")
    if row["of"] == "delta":
        value, low, high = (f"{row[name]:.2g}" for name in names)
        return f"δ of larger runs best: rms {value} ({low} to {high}) sd of its noise"
    value, low, high = (f"{100 * row[name]:.2g}%" for name in names)
    return f"larger runs best: rms {value} ({low} to {high}) of the loss"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


__all__ = ["compare", "on_bases", "verdict"]
