"""Would δ of the smaller runs have foretold what rounding the larger ones costs? Rolling origins of PTQ terms.

As `holdout` and `compare` for losses: an origin fits every run up to a size, losses and paired δ, and predicts
δ of the next levels at widths that it has seen. Errors are of δ itself: the noise of a total loss is many times
as large. δ of few bits are large and noisy, so laws are compared in units of δ's noise.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import rolling
from precisionlaws.fitting.compare import judge, named, on_common_rows
from precisionlaws.fitting.rolling import Origins
from precisionlaws.fitting.rows import Rows, Table, select
from precisionlaws.laws import Law
from precisionlaws.laws import law as known
from precisionlaws.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd

    from precisionlaws.fitting.fit import Fit

LAST = "δ of the largest run of the same widths"
NONE = "δ = 0"


def holdout_delta(
    frame: "pd.DataFrame",
    law: Law | str,
    by: str = "compute",
    *,
    level: float = 0.95,
    delta: float = 1e-3,
    resamples: int = 400,
) -> "pd.DataFrame":
    """One row per origin and model, the law first, and a pooled row for each (origin "all"); δ in nats.

    up_to        the largest size fitted: N·D ("compute"), N or D
    rms, bias    of δ, measured less predicted, at the next two levels of size
    coverage     share of the predicted δ inside the interval of a new one, at `level`
    width        mean half width of that interval
    beyond       decades outside the fitted rows, at most

    Intervals hold the coefficients' error and δ's noise, not that the law may be wrong further on.

    Raises: NoOrigin where the rows allow none; ValueError where the law has no PTQ term.
    """
    law = known(law) if isinstance(law, str) else law
    rows = _paired(frame, law)
    at = rolling.origins(rows.delta, [law], by, delta=True)
    each = _foretold(rows, law, at, level, delta, resamples)
    seen = rows.delta["delta_ptq"].to_numpy(float)
    new, kinds = seen[at.pairs()[1]], rolling.formats(rows.delta, delta=True)
    last = rolling.largest(at, seen, kinds, rolling.sizes(rows.delta)["compute"])
    errors = {law.full_name: each.pop("error"), LAST: new - last, NONE: new}
    return rolling.scores(at, errors, each.pop("beyond"), each)


def compare_delta(
    frame: "pd.DataFrame",
    laws: Sequence[Law | str],
    *,
    by: str = "compute",
    level: float = 0.95,
    delta: float = 1e-3,
    seed: int = 0,
) -> "pd.DataFrame":
    """One row per law, the best predictor of δ first; columns as `compare`, errors in units of δ's noise.

    That noise is sd² = σ0² + (r δ)², the mean of what the laws' fits of all rows say. Every law is judged on the δ
    that all of them speak of.

    Raises: as `holdout_delta`.
    """
    import pandas as pd

    chosen = [known(entry) if isinstance(entry, str) else entry for entry in laws]
    chosen = list({one.full_name: one for one in chosen}.values())
    each = [_paired(frame, one) for one in chosen]
    table = on_common_rows([rows.delta for rows in each], ["P_post"])
    at = rolling.origins(table, chosen, by, delta=True)
    i = at.pairs()[1]
    errors, variances, rows = [], [], []
    for one, own in zip(chosen, each, strict=True):
        mine = replace(own, delta=table)
        whole = _fit(mine, one, np.inf, by, delta, 1)
        errors.append(_foretold(mine, one, at, level, delta, 1)["error"])
        mean = np.asarray(one.penalty(whole.params, one.read(table), one.paired))
        variances.append(whole.noise["sigma0"] ** 2 + (whole.noise["r"] * mean) ** 2)
        objective = whole.penalty_objective
        assert objective is not None
        k = len({q.name for t in one.paired for q in t.params(one.read(table, "loss"))})
        rows.append({**named(one), "n": len(table), "parameters": k, "huber": objective.value})
    unit = np.sqrt(np.mean(variances, 0))[i]
    family = table["family"].to_numpy(str)[i]
    out = pd.DataFrame(rows).assign(
        of="delta", by=by, origins=len(at.edge), families=len(np.unique(family)), heldout=len(i)
    )
    judged = judge((np.array(errors).T / unit[:, None]) ** 2, family, level, seed)
    return out.assign(**judged).sort_values("heldout_rms", kind="stable", ignore_index=True)


def _paired(frame: Any, law: Law) -> Rows:
    if not law.paired:
        raise ValueError(f"{law.full_name} has no PTQ term: it says nothing of δ")
    rows = select(frame, law)
    if len(rows.delta) == 0:
        raise ValueError(f"{law.full_name}: no row has P_post < 16 and a paired δ")
    return rows


def _foretold(
    rows: Rows, law: Law, at: Origins, level: float, delta: float, resamples: int
) -> dict[str, Array]:
    """Of every pair of `Origins.pairs`: measured less predicted δ, whether an interval held it, its half width."""
    out: dict[str, list[Array]] = {c: [] for c in ("error", "coverage", "width", "beyond")}
    rng = np.random.default_rng(0)
    for edge, fitted, scored in zip(at.edge, at.fitted, at.scored, strict=True):
        new = rows.delta[scored]
        x, seen = law.read(new), new["delta_ptq"].to_numpy(float)
        small = _fit(rows, law, edge, at.by, delta, resamples)
        mean = np.asarray(law.penalty(small.params, x, law.paired)) + np.zeros(len(new))
        many = {k: v[:, None] for k, v in small.samples.items()}
        with np.errstate(all="ignore"):
            draws = np.asarray(law.penalty(many, x, law.paired)) + np.zeros((resamples, len(new)))
        sd = np.hypot(small.noise["sigma0"], small.noise["r"] * mean)
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(draws + sd * rng.standard_normal(draws.shape), ends, axis=0)
        out["error"].append(seen - mean)
        out["coverage"].append((low <= seen) & (seen <= high))
        out["width"].append((high - low) / 2)
        out["beyond"].append(rolling.beyond(new, rows.delta[fitted]) / np.log(10))
    return {c: np.concatenate(parts) for c, parts in out.items()}


def _fit(rows: Rows, law: Law, edge: float, by: str, delta: float, resamples: int) -> "Fit":
    """The law fitted to all that is no larger than the edge."""
    import pandas as pd

    from precisionlaws.fitting.fit import fit

    whole = pd.concat([rows.loss, rows.delta], ignore_index=True)
    small: Table = whole[rolling.sizes(whole)[by] <= edge * (1 + rolling.SAME / 2)]
    how = "family" if resamples > 1 else "wald"
    return fit(small, law, delta=delta, resamples=resamples, intervals=how)
