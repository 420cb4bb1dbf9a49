"""Several laws on the same losses: in-sample, and on the largest runs held out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.rows import Table, centre, select
from precisionlaws.fitting.solve import search
from precisionlaws.laws import Law, law
from precisionlaws.laws.base import Array

if TYPE_CHECKING:
    import pandas as pd


def compare(
    frame: "pd.DataFrame", laws: Sequence[Law | str], *, delta: float = 1e-3
) -> "pd.DataFrame":
    """One row per law: parameters, Huber sum, rms of log residuals, AICc, rms on the held-out runs.

    Held out: the runs of the largest N·D, at least a tenth of all. AICc takes rows as independent, the
    held-out column does not. Every law is compared on the rows that all of them speak of.
    """
    import pandas as pd

    chosen = [law(entry) if isinstance(entry, str) else entry for entry in laws]
    tables = [select(frame, one).loss for one in chosen]
    keys = ["N", "D", "P_w", "P_a", "P_kv", "loss", "family"]
    common = set.intersection(*(set(map(tuple, t[keys].itertuples(index=False))) for t in tables))
    table = tables[0][[tuple(r) in common for r in tables[0][keys].itertuples(index=False)]]
    held = _largest(table)
    rows = [
        {"law": one.name, "full_name": one.full_name, **_row(one, table, held, delta)}
        for one in chosen
    ]
    return pd.DataFrame(rows).sort_values("heldout_rms", kind="stable", ignore_index=True)


def _row(law: Law, table: Table, held: Array, delta: float) -> dict[str, float]:
    bound = law.bind(table)
    whole = block("loss", bound, table, centre(table))
    n, k = len(whole.y), len(whole.params)
    if n - held.sum() < k:
        raise ValueError(
            f"{law.full_name}: {n - int(held.sum())} rows outside the hold-out cannot determine {k} parameters"
        )
    found = search(whole, delta)
    r = _residual(whole, found.u[:1])
    part = search(whole, delta, W=(~held).astype(float))
    aicc = n * np.log(np.mean(r**2)) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1)
    return {
        "n": n, "parameters": k, "huber": float(found.value[0]), "rms": float(np.sqrt(np.mean(r**2))), "aicc": float(aicc),
        "heldout": int(held.sum()), "heldout_rms": float(np.sqrt(np.mean(_residual(whole, part.u[:1])[held] ** 2))),
    }  # fmt: skip


def _residual(b: Block, u: Array) -> Array:
    return b.y - b.predict(u)[0]


def _largest(table: Table) -> Array:
    compute = (table["N"] * table["D"]).to_numpy(float)
    return compute >= np.quantile(compute, 0.9, method="lower")
