# %% [markdown]
# # Quickstart: from a sweep to a law
# Run `make demo` first, or point `STORE` at any store, CSV or parquet file.

# %%
import os

import precisionlaws as pl

STORE = os.environ.get("PRECISIONLAWS_STORE", "results")
frame = pl.load(STORE)
frame.groupby(["mode", "P_w", "P_a", "P_kv", "P_post"]).loss.agg(["count", "mean"])

# %% [markdown]
# How many parameters is a model worth that is trained at P bits? `neff_free` asks nothing of the shape
# of the answer: one efficiency per role and width.

# %%
free = pl.fit(frame, pl.law("neff_free"))
print(free.summary())

# %% [markdown]
# Which width pays? Only eff(P) / c(P) matters, whatever N and D the budget buys.

# %%
print(pl.plan(free, flops=1e11).summary())
figure = pl.plot("optimal-bits", free)

# %% [markdown]
# Does rounding after training hurt more the longer a model was trained? The exponent of D in δ says.

# %%
ptq = pl.fit(frame, pl.law("ptq_kumar"))
low, high = ptq.interval("gamma_D")
print(f"gamma_D = {ptq.params['gamma_D']:.2f}, 95% interval {low:.2f} to {high:.2f}")

# %% [markdown]
# All of it as one page that can be sent to a colleague: `precisionlaws report results`.

# %%
print(pl.report(STORE, fits=[free, ptq]).save("report.html"))
