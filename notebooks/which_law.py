# %% [markdown]
# # Which law at 10×?
# The richer law always wins in sample. What a plan needs is the law that errs least at runs larger than any it was
# fitted to. `STORE` is a store, CSV or parquet of yours; without one, runs are simulated from a law that is known.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd

import precisionlaws as pl
from precisionlaws.fitting.compare import on_bases, verdict
from precisionlaws.planning.beliefs import beliefs, sentences
from precisionlaws.planning.next import next_runs

STORE = os.environ.get("PRECISIONLAWS_STORE", "results")


def simulated() -> pd.DataFrame:
    """Five sizes, six D, three seeds, three widths; bits cost parameters, as in Kumar et al. 2024."""
    rng, rows = np.random.default_rng(0), []
    for N in np.geomspace(1e6, 1e8, 5).round():
        for seed in range(3):
            luck = 0.003 * rng.standard_normal()
            for D in np.geomspace(2e7, 2e10, 6).round():
                for P in (3.0, 4.0, 6.0, 16.0):
                    worth = N * (1 - np.exp(-P / 2.5 + 0.3) if P < 16 else 1)
                    loss = 1.8 + 400 / worth**0.34 + 1900 / D**0.37
                    noise = np.exp(luck + 0.001 * rng.standard_normal())
                    rows.append({"N": N, "D": D, "P_w": P, "seed": seed, "family": f"{N:g}-{seed}", "loss": loss * noise})  # fmt: skip
    return pd.DataFrame(rows)


frame = pl.load(STORE) if Path(STORE).exists() else simulated()

# %% [markdown]
# Every law on two bases, ranked by its errors at the next two levels of compute over all rolling origins, with a model
# confidence set over families: laws that it holds are not told from the best. If the ranking flips with the base, it says so.

# %%
laws = [pl.law(name) for name in ("neff_free", "neff_kumar", "deff_free")]
table = pl.compare(frame, on_bases(laws, ("chinchilla", "gamma")))
print(table[["full_name", "parameters", "rms", "heldout_rms", "low", "high", "in_set"]].to_string(index=False, float_format="{:.3g}".format))  # fmt: skip
print(*verdict(table), sep="\n")

# %% [markdown]
# Does it matter? What two laws say at ten times the largest run's compute, with the interval of a new run: it holds noise
# and misfit, which the interval of the mean does not.

# %%
fits = [pl.fit(frame, law, resamples=1000) for law in laws[:2]]
top = frame.loc[(frame.N.astype(float) * frame.D).idxmax()]
at = pd.DataFrame([{"N": top.N * np.sqrt(10), "D": top.D * np.sqrt(10), "P_w": 4.0}])
for fitted in fits:
    said = fitted.predict(at).iloc[0]
    print(
        f"{fitted.law.full_name}: {said.loss:.3f} nats, 95% of new runs {said.run_low:.3f} to {said.run_high:.3f}"
    )

# %% [markdown]
# And the best width, by law, cost and budget, beside what was published.

# %%
C = 6 * float(top.N * top.D)
print(*sentences(beliefs(fits, flops=[C, 10 * C, 100 * C], costs=["paper", "h100_fp8"])), sep="\n")

# %% [markdown]
# The runs that would tell the two laws apart fastest: the expected log likelihood ratio between them, so far.

# %%
print(next_runs(fits[0], 3, flops=10 * C, other=fits[1]).to_string(index=False, float_format="{:.3g}".format))  # fmt: skip
