# %% [markdown]
# # Is the worth of a bit a matter of architecture and optimizer?
# `precisionlaws sweep architectures --store STORE` first. One fit for each architecture and optimizer, because two do not
# follow one law, and losses of masked and causal models are not comparable at all; eff(P) is a share of a model's own
# parameters and can be compared. `neff_free` takes no formula between widths. Draws of two fits are taken as
# independent: models of one architecture under two optimizers share batches, so that their interval is too wide, not
# too narrow.

# %%
import os
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

import precisionlaws as pl

frame = pl.load(os.environ.get("PRECISIONLAWS_STORE", "results"))
frame = frame[(frame.eval_id == "final") & (frame.status == "finished")]
RESAMPLES = int(os.environ.get("RESAMPLES", "4000"))


groups = {
    f"{arch} {optim} ({objective})": rows
    for (objective, arch, optim), rows in frame.groupby(["objective", "arch", "optim"])
}


def fits() -> dict[str, pl.Fit]:
    law = pl.law("neff_free")
    return {name: pl.fit(rows, law, resamples=RESAMPLES) for name, rows in groups.items()}


# %% [markdown]
# eff(P) = N_eff / N of weights trained at P bits, with 95% intervals that resample families. Δ(P): what the bits cost in
# loss, against the 16-bit run of the same initialization and batches, averaged over D within a family; its interval is
# Student's t over families. Δ needs no law and is known where eff is not, but says nothing of what it is worth.


# %%
def interval(draws: np.ndarray) -> str:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{np.nanmedian(draws):.2f} [{low:.2f}, {high:.2f}]"


def harm(rows: pd.DataFrame, P: float) -> str:
    """Nats per token."""
    losses = rows.set_index(["family", "D", "P_w"]).loss.unstack("P_w")
    by_family = (losses[P] - losses[16]).dropna().groupby("family").mean()
    half = (
        stats.t(len(by_family) - 1).ppf(0.975) * by_family.sem() if len(by_family) > 1 else np.nan
    )
    return f"{by_family.mean():.3f} ± {half:.3f}"


def row(rows: pd.DataFrame, fit: pl.Fit) -> dict[str, str]:
    base = {"runs": str(fit.objective.n), "families": str(fit.clusters)}
    for P in fit.measured["w"]:
        worth = interval(fit.quantity(f"eff_w({P:g})")[1])
        base |= {f"eff({P:g})": worth, f"Δ({P:g}), nats": harm(rows, P)}
    return base | {"sd of a run": f"{fit.residual['run_sd']:.3f}", "at a minimum": str(fit.certified)}  # fmt: skip


fitted = fits()
table = pd.DataFrame({name: row(groups[name], fit) for name, fit in fitted.items()}).T
print(table.to_string())

# %% [markdown]
# Ratios of eff(P): an interval without 1 tells two apart. With k pairs at 95%, one in twenty does so by chance.

# %%
ratios = {}
for (a, one), (b, other) in combinations(fitted.items(), 2):
    common = sorted(set(one.measured["w"]) & set(other.measured["w"]))
    draws = {P: [f.quantity(f"eff_w({P:g})")[1] for f in (one, other)] for P in common}
    least = min(len(x) for pair in draws.values() for x in pair)
    ratios[f"{a} / {b}"] = {f"eff({P:g})": interval(x[:least] / y[:least]) for P, (x, y) in draws.items()}  # fmt: skip
ratios = pd.DataFrame(ratios).T
print("\n" + ratios.to_string())
