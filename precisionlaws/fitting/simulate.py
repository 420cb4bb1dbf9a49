"""Frames of a study that was never run: what would a law's losses look like, and could `fit` find it again?

The noise is that of paired runs: draws for each family, its slope in ln D and each (family, D), shared by
all widths because their initialization and batches are the same, and a smaller one for each run.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.laws import OFF, Law
from precisionlaws.laws.base import BITS, Array

if TYPE_CHECKING:
    import pandas as pd


def crossed(
    N: Iterable[float],
    D: Iterable[float],
    widths: Sequence[Mapping[str, float]] = (),
    *,
    seeds: int = 2,
    post: Sequence[float] = (),
) -> "pd.DataFrame":
    """Every N × D × seed, unquantized and at each of `widths` ({"P_w": 4}), and rounded to `post` bits."""
    import pandas as pd

    D, rows = list(D), []
    for n in N:
        for seed in range(seeds):
            for d in D:
                for bits in ({}, *widths, *({"P_post": P} for P in post)):
                    name = "-".join(f"{k}{v:g}" for k, v in bits.items() if k != "P_post")
                    rows.append(
                        {"run_id": f"{n:g}-{d:g}-s{seed}-{name}", "family": f"{n:g}-s{seed}", "N": n, "D": d,
                         **dict.fromkeys(BITS, OFF), **bits, "seed": seed}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def simulate(
    law: Law,
    params: Mapping[str, float],
    design: "pd.DataFrame",
    *,
    family_sd: float = 0.0,
    slope_sd: float = 0.0,
    branch_sd: float = 0.0,
    run_sd: float = 0.0,
    delta_sd: tuple[float, float] = (0.0, 0.0),
    delta_family_sd: float = 0.0,
    seed: int = 0,
) -> "pd.DataFrame":
    """The design with losses.

    Noise in nats: of families, of a family's slope in ln D (as runs from one trunk share it), of (family, D)
    and of runs. Noise of δ: sd² = σ0² + (r δ)² of each row, and a relative part shared by a family.
    """
    rng = np.random.default_rng(seed)
    table = design.reset_index(drop=True)
    x = law.read(table, *BITS)
    delta = np.asarray(law.penalty(params, x, law.paired)) + np.zeros(len(table))
    loss = law.loss(params, {**x, "P_post": np.full(len(table), OFF)})
    for sd, keys in ((family_sd, ["family"]), (branch_sd, ["family", "D"]), (run_sd, ["run_id"])):
        loss = loss + sd * _shared(table, keys, rng)
    post = x["P_post"] < OFF
    noise = np.hypot(delta_sd[0], delta_sd[1] * delta) * rng.standard_normal(len(table))
    away = np.log(x["D"]) - np.log(x["D"]).mean()
    loss = loss + slope_sd * _shared(table, ["family"], rng) * away
    noise = noise + delta_family_sd * delta * _shared(table, ["family"], rng)
    delta = np.where(post, delta + noise, np.nan)
    return table.assign(loss=loss + np.where(post, delta, 0.0), delta_ptq=delta)


def _shared(table: "pd.DataFrame", keys: list[str], rng: np.random.Generator) -> Array:
    """A standard normal draw for each group, given to all its rows."""
    group = table.groupby(keys, sort=False).ngroup().to_numpy()
    return rng.standard_normal(group.max() + 1)[group]
