"""Profile likelihoods of E and the exponents: which values the data reject."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.plots.style import GREY, canvas, in_column, of_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 2.5  # times the 95% limit


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit: below the dashed line are the values that fit within 95%; an open side is said."""
    fit = fits[0]
    table = numbers(fits)
    names = list(dict.fromkeys(table["parameter"]))
    columns = 1 if in_column() else min(len(names), 3)
    lines = -(-len(names) // columns)
    fig, axes = canvas(2.2 * columns + 0.4, 2.5 * lines + 0.3, nrows=lines, ncols=columns)
    color = of_order(0)[0]
    for ax, name in zip(axes, names, strict=False):
        part, profile = table[table["parameter"] == name], fit.profiles[name]
        limit = profile.limit
        low, high = profile.interval
        inside = part["rise"] <= limit
        ax.fill_between(part["value"], part["rise"], limit, where=inside, interpolate=True, color=color, alpha=0.15, lw=0)  # fmt: skip
        ax.plot(part["value"], part["rise"], color=color, lw=1.5)
        ax.plot(fit.params[name], 0, "*", color=color, ms=11, mec="white", mew=0.6, zorder=5)
        ax.axhline(limit, color=GREY, lw=0.9, ls=(0, (4, 3)))
        ax.set_ylim(-0.08 * limit, SHOWN * limit)
        reach = 0.35 * (high - low)
        ax.set_xlim(max(low - reach, profile.values[0]), min(high + reach, profile.values[-1]))
        open_ = " and ".join(w for w, o in zip(("below", "above"), profile.open, strict=True) if o)
        ax.set_title(f"{name}: {low:.3g} to {high:.3g}" + (f"\nopen {open_}" if open_ else ""), fontsize=9)  # fmt: skip
        unit = next((q.unit for q in fit.law.params if q.name == name), "")
        ax.set_xlabel(f"{name} ({unit})" if unit else name)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    for k in range(lines):
        axes[k * columns].set_ylabel("rise of the objective\n(likelihood ratio)")
    fig.suptitle(f"{fit.law.full_name}, n = {fit.objective.n}; dashed: 95%", fontsize=9, x=0.01, ha="left")  # fmt: skip
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """parameter, value, rise."""
    import pandas as pd

    fit = fits[0]
    shape = {q.name for q in fit.law.params if q.name == "E" or q.unit == ""}
    found = {k: v for k, v in fit.profiles.items() if k in shape}
    if not found:
        raise ValueError(f"the fit of {fit.law.full_name} holds no profiles; fit again")
    parts = [
        pd.DataFrame({"parameter": k, "value": np.array(v.values), "rise": np.array(v.rise)})
        for k, v in found.items()
    ]
    return pd.concat(parts, ignore_index=True)
