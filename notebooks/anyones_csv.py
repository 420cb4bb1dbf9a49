# %% [markdown]
# # Your own data in ten lines: a law from anyone's table
# A fit needs a loss per row and the columns that its law asks for; nothing of it has to be trained here. The
# table stands for one of yours: losses of a known law with the noise of a seed, so that the answer can be checked.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd

import precisionlaws as pl

CSV = Path(os.environ.get("CSV", "anyones.csv"))
if not CSV.exists():
    rng = np.random.default_rng(0)
    grid = [
        (n, d, b, s)
        for n in (3e7, 1e8, 3e8)
        for d in (1e9, 4e9, 16e9)
        for b in (4, 6, 16)
        for s in range(3)
    ]
    table = pd.DataFrame(grid, columns=["params", "tokens", "weight_bits", "seed"])
    worth = table.params * np.where(table.weight_bits < 16, 1 - np.exp(-table.weight_bits / 2.5), 1)
    loss = 1.8 + 480 / worth**0.35 + 2100 / table.tokens**0.37
    table["val_loss"] = loss * np.exp(0.002 * rng.standard_normal(len(table)))
    table.to_csv(CSV, index=False)

# %% [markdown]
# `columns` says which name in the file is which: the same as `precisionlaws fit CSV --columns N=params,...`.

# %%
frame = pl.load(CSV, {"N": "params", "D": "tokens", "P_w": "weight_bits", "loss": "val_loss"})
frame["family"] = (
    frame.N.astype(str) + "-" + frame.seed.astype(str)
)  # what shares a seed is not independent
fitted = pl.fit(frame, pl.law("neff_kumar"), resamples=500)
print(fitted.summary())

# %% [markdown]
# What is a model worth whose weights are trained at 4 bits? (By the formula above: 0.80.)

# %%
low, high = fitted.interval("eff_w(4)")
print(
    f"N_eff/N at 4 bits: {fitted.quantity('eff_w(4)')[0]:.2f}, 95% interval {low:.2f} to {high:.2f}"
)
print(pl.plan(fitted, flops=1e20).summary())
