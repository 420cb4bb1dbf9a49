"""Predicted against measured loss, and what is left over."""

from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import OFF, ROLES
from precisionlaws.plots.style import COLORS, MARKERS, canvas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAMES = {"w": "weights", "a": "activations", "kv": "KV cache"}


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit: the identity line above, residuals in percent below, coloured by what was quantized."""
    fit = fits[0]
    rows = fit.rows
    fig, (top, low) = canvas(5.8, 6.4, nrows=2, ncols=1, sharex=True, height_ratios=[3, 1.3])
    measured = rows["loss"].to_numpy(float)
    predicted = fit.predict(rows)["loss"].to_numpy(float)
    groups = what(rows)
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    ends = ends + np.array([-0.03, 0.03]) * (ends[1] - ends[0])
    top.plot(ends, ends, color="#777777", lw=1.0)
    for i, name in enumerate(sorted(set(groups), key=lambda g: (g != "nothing", g))):
        k = groups == name
        style = {
            "marker": MARKERS[i % 7],
            "color": COLORS[i % 7],
            "s": 24,
            "alpha": 0.8,
            "linewidths": 0.4,
            "edgecolors": "white",
        }
        top.scatter(predicted[k], measured[k], label=f"{name} ({k.sum()})", **style)
        low.scatter(predicted[k], 100 * (measured[k] / predicted[k] - 1), **style)
    spread = 100 * fit.objective.residual_sd
    low.axhline(0, color="#777777", lw=1.0)
    low.axhspan(-spread, spread, color="#777777", alpha=0.12, lw=0)
    low.annotate(
        f"±1 sd = {spread:.2g}%",
        (1, spread),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color="#555555",
    )
    reach = 1.15 * max(np.abs(100 * (measured / predicted - 1)).max(), 1.6 * spread)
    low.set_ylim(-reach, reach)
    top.set_ylabel("measured loss (nats per token)")
    low.set_ylabel("measured / fitted − 1 (%)")
    low.set_xlabel("fitted loss (nats per token)")
    top.set_title(f"{fit.law.full_name}, {len(rows)} runs", loc="left")
    top.legend(loc="upper left", title="below 16 bits (runs)", alignment="left")
    fig.align_ylabels()
    return fig


def numbers(fits: tuple[Fit, ...]) -> "pd.DataFrame":
    """N, D, what (is quantized), measured, fitted."""
    import pandas as pd

    rows = fits[0].rows
    fitted = fits[0].predict(rows)["loss"].to_numpy(float)
    return pd.DataFrame({"N": rows["N"], "D": rows["D"], "what": what(rows), "measured": rows["loss"], "fitted": fitted})  # fmt: skip


def what(rows: "pd.DataFrame") -> np.ndarray:
    """What each run quantizes, in words."""
    names = []
    for bits in zip(*(rows.get(f"P_{r}", np.full(len(rows), OFF)) for r in ROLES), strict=True):
        names.append(
            " + ".join(NAMES[r] for r, P in zip(ROLES, bits, strict=True) if P < OFF) or "nothing"
        )
    return np.array(names)
