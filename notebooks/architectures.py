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

import precisionlaws as pl

frame = pl.load(os.environ.get("PRECISIONLAWS_STORE", "results"))
frame = frame[(frame.eval_id == "final") & (frame.status == "finished")]
RESAMPLES = int(os.environ.get("RESAMPLES", "4000"))


def fits() -> dict[str, pl.Fit]:
    found = {}
    for (objective, arch, optim), rows in frame.groupby(["objective", "arch", "optim"]):
        name = f"{arch} {optim} ({objective})"
        found[name] = pl.fit(rows, pl.law("neff_free"), resamples=RESAMPLES)
    return found


# %% [markdown]
# eff(P) = N_eff / N of weights trained at P bits, with 95% intervals that resample families.


# %%
def interval(draws: np.ndarray) -> str:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{np.nanmedian(draws):.2f} [{low:.2f}, {high:.2f}]"


def row(fit: pl.Fit) -> dict[str, str]:
    base = {"runs": str(fit.objective.n), "families": str(fit.clusters)}
    worth = {f"eff({P:g})": interval(fit.quantity(f"eff_w({P:g})")[1]) for P in fit.measured["w"]}
    return (
        base | worth | {"sd of a run": f"{fit.residual['run_sd']:.3f}", "at a minimum": str(fit.certified)}
    )  # fmt: skip


fitted = fits()
table = pd.DataFrame({name: row(fit) for name, fit in fitted.items()}).T
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
