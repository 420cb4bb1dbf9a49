# %% [markdown]
# # Does the best learning rate of a small model serve a larger one?
# `precisionlaws sweep lr_transfer --store STORE` first. Per parametrization and shape: the loss at each rate (mean of the
# seeds), the best rate, by a parabola in the log of the rate through the lowest point and its neighbours, and what it
# costs to take the rate that is best at the base instead.
#
# Found with tokens=250k seed=0 (244 steps, one seed): from width 16 to 48 the best rate is .0140, .0143, .0136 under
# mup, and .026, .014, .0096 under standard. At 150k (width 64, depth 3) it is .0067 under standard, .0126 under mup, which
# does not know of depth, and .0151 under completep. To take the base's rate there costs .077, .001 and .0003 nats. The
# rule of the standard parametrization, 0.48 / width, says .030, .015, .010, .0075: within a factor of 1.2.
# At width 32 and depth 8 it is .0146 under completep and .0122 under standard, against .0143 at depth 2.
# Transfer is not quality: at their best rates standard is ahead at 150k, by .01 nats, and at depth 8 by .015.

# %%
import os

import numpy as np
import pandas as pd

import precisionlaws as pl

frame = pl.load(os.environ.get("PRECISIONLAWS_STORE", "results"))
frame = frame[frame.eval_id == "final"].assign(loss=lambda t: t.loss.where(t.status == "finished"))
SHAPE = ["size.width", "size.depth"]
BASE = (32, 2)

# %% [markdown]
# At the base all parametrizations are the standard one; at its depth `completep` is `mup`, so that what was trained once
# is shown for both.

# %%
mean = frame.groupby(["parametrization", *SHAPE, "optim.lr"]).loss.mean()
curves = {k: c.droplevel([0, 1, 2]) for k, c in mean.groupby(level=[0, 1, 2])}
for (name, width, depth), curve in list(curves.items()):
    if name == "standard" and (width, depth) == BASE:
        curves |= {(p, *BASE): curve for p in ("mup", "completep")}
    elif name == "mup" and depth == BASE[1]:
        curves[("completep", width, depth)] = curve


# %%
def lowest(curve: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """log2 of the rate and loss of the lowest point and its neighbours; of it alone at the end of the grid."""
    known = curve.dropna()
    x, y = np.log2(known.index.to_numpy(float)), known.to_numpy()
    i = int(y.argmin())
    near = slice(i - 1, i + 2) if 0 < i < len(y) - 1 else slice(i, i + 1)
    return x[near], y[near]


def best(curve: pd.Series) -> tuple[float, float]:
    """(rate, loss) at the vertex of the parabola, or at the end of the grid."""
    x, y = lowest(curve)
    if len(x) == 1:
        return float(2 ** x[0]), float(y[0])
    a, b, c = np.polyfit(x, y, 2)
    return float(2 ** (-b / (2 * a))), float(c - b * b / (4 * a))


def loss_at(curve: pd.Series, lr: float) -> float:
    """On the parabola where it was fitted; elsewhere on straight lines in the log of the rate."""
    (x, y), at = lowest(curve), np.log2(lr)
    if len(x) > 1 and x[0] <= at <= x[-1]:
        return float(np.polyval(np.polyfit(x, y, 2), at))
    known = curve.dropna()
    return float(np.interp(at, np.log2(known.index.to_numpy(float)), known.to_numpy()))


rates = sorted(frame["optim.lr"].unique())
rows = {}
for key, curve in sorted(curves.items(), key=lambda item: (item[0][0], item[0][2], item[0][1])):
    lr, least = best(curve)
    own = best(curves[(key[0], *BASE)])[0] if (key[0], *BASE) in curves else np.nan
    at_end = lr in (curve.dropna().index.min(), curve.dropna().index.max())
    rows[key] = {f"{rate:g}": curve.get(rate, np.nan) for rate in rates} | {
        "best lr": lr, "lr of base": own, "costs, nats": loss_at(curve, own) - least,
        "": "end of the grid" if at_end else "",
    }  # fmt: skip
table = pd.DataFrame(rows).T
table.index.names = ["parametrization", "width", "depth"]
print(table.to_string(float_format="{:.4g}".format))

# %% [markdown]
# The exponent x of best rate ~ width^x at the base's depth: 0 is transfer, -1 the rule of the standard parametrization.

# %%
exponents = {}
for name in dict.fromkeys(k[0] for k in curves):
    found = {k[1]: best(c)[0] for k, c in curves.items() if k[0] == name and k[2] == BASE[1]}
    if len(found) > 1:
        exponents[name] = float(np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0])
print("\nbest lr ~ width^x: " + ", ".join(f"{k} x = {v:.2f}" for k, v in exponents.items()))
