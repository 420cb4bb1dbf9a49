"""How well would this law have predicted the larger runs? Rolling origins of one law, beside naive predictors.

Every origin is a whole fit of the smaller runs: coefficients, draws, and a misfit measured on still smaller
ones. Coverage is thus that of intervals which never saw what they are held against.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting import rolling
from precisionlaws.fitting.objective import block
from precisionlaws.fitting.rolling import Origins
from precisionlaws.fitting.rows import Table, centre, select
from precisionlaws.laws import Law
from precisionlaws.laws import law as known
from precisionlaws.laws.base import Array, named_formats

if TYPE_CHECKING:
    import pandas as pd

LAST = "the largest run of the same widths"


def holdout(
    frame: "pd.DataFrame",
    law: Law | str,
    by: str = "compute",
    *,
    level: float = 0.95,
    delta: float = 1e-3,
    resamples: int = 400,
) -> "pd.DataFrame":
    """One row per origin and model, the law first, and a pooled row for each (origin "all").

    up_to            the largest size fitted: N·D ("compute"), N or D
    rms, bias        of log loss, measured less predicted, at the next two levels of size
    coverage         share of the predicted runs inside the interval of a new run, at `level`
    coverage_mean    the same for the interval of the mean, which holds no noise and no misfit
    width            mean half width of the interval of a new run, relative to the loss
    beyond           decades outside the fitted rows, at most

    Baselines: the law with E = 0, its base alone, and the loss of the largest run of the same widths.
    Penalties of rounding finished runs are left out: they are fitted to δ, not to losses.

    Raises: NoOrigin where the rows allow none.
    """
    law = rolling.trained(known(law) if isinstance(law, str) else law)
    table = select(frame, law).loss
    at = rolling.origins(table, [law], by)
    own = [_origin(table, law, f, s, level, delta, resamples) for f, s in zip(at.fitted, at.scored, strict=True)]  # fmt: skip
    each = {c: np.concatenate([one[c] for one in own]) for c in own[0]}
    errors = {law.full_name: each.pop("error"), **_baselines(table, law, at, delta)}
    return rolling.scores(at, errors, each.pop("beyond"), each)


def _origin(
    table: Table, law: Law, fitted: Array, scored: Array, level: float, delta: float, resamples: int
) -> dict[str, Array]:
    from precisionlaws.fitting.fit import fit

    new = table[scored]
    said = fit(table[fitted], law, delta=delta, resamples=resamples).predict(new, level)
    loss, out = new["loss"].to_numpy(float), {c: said[c].to_numpy(float) for c in said}
    return {
        "error": np.log(loss / out["loss"]), "beyond": out["beyond"],
        "coverage": (out["run_low"] <= loss) & (loss <= out["run_high"]),
        "coverage_mean": (out["low"] <= loss) & (loss <= out["high"]),
        "width": (out["run_high"] - out["run_low"]) / 2 / out["loss"],
    }  # fmt: skip


def _baselines(table: Table, law: Law, at: Origins, delta: float) -> dict[str, Array]:
    out = {}
    bound = law.bind(table)
    if "E" in {q.name for q in bound.params}:
        out["with E = 0"] = _errors(bound, table, at, delta, {"E": 0.0})
    if law.terms:
        base = replace(law, terms=())
        out[f"{base.full_name} alone"] = _errors(base.bind(table), table, at, delta, {})
    out[LAST] = _last(table, at)
    return out


def _errors(law: Law, table: Table, at: Origins, delta: float, held: dict[str, float]) -> Array:
    b = block("loss", law, table, centre(table))
    return rolling.errors(b, rolling.refit(b, delta, table, at.fitted, held=held), at)


def _last(table: Table, at: Origins) -> Array:
    formats, log = named_formats(rolling.widths(table)), np.log(table["loss"].to_numpy(float))
    return log[at.pairs()[1]] - rolling.largest(at, log, formats, rolling.sizes(table)["compute"])
