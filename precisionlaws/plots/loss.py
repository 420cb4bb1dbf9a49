"""Loss against D and against N at 16 bits: what was measured, and where a new run is expected."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import OFF, ROLES, Array
from precisionlaws.plots.style import GREY, canvas, count, of_order, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND = 4.0  # times the largest measured, where bands show what is not known
LINES = 5


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit: a line per N over D, and a line per D over N, with the 95% interval of a new run."""
    fit = fits[0]
    rows = plain(fit)
    if len(rows) == 0:
        raise ValueError("loss needs runs at 16 bits, and this fit has none")
    fig, axes = canvas(6.6, 3.9, ncols=2, sharey=True)
    for ax, along, across in zip(axes, ("D", "N"), ("N", "D"), strict=True):
        _panel(ax, fit, rows, along, across)
    axes[0].set_ylabel("held-out loss (nats per token)")
    fig.suptitle(
        f"{fit.law.full_name}, {len(rows)} runs at 16 bits; bands: 95% of new runs; dashed: largest measured",
        fontsize=9, x=0.01, ha="left",
    )  # fmt: skip
    return fig


def plain(fit: Fit) -> Any:
    """The runs that quantize nothing."""
    rows: Any = fit.rows
    off = np.logical_and.reduce(
        [np.asarray(rows.get(f"P_{r}", np.full(len(rows), OFF))) >= OFF for r in ROLES]
    )
    return rows[off]


def numbers(fits: tuple[Fit, ...]) -> Any:
    """The lines and bands: along, N, D, loss, run_low, run_high."""
    import pandas as pd

    fit, out = fits[0], []
    rows = plain(fit)
    for along, across in (("D", "N"), ("N", "D")):
        for v in some(np.unique(rows[across])):
            grid = span(rows, along)
            out.append(_line(fit, along, across, float(v), grid))
    return pd.concat(out, ignore_index=True)


def span(rows: Any, along: str) -> Array:
    return np.geomspace(rows[along].min() / 1.3, rows[along].max() * BEYOND, 40)


def some(values: Array) -> Array:
    """At most so many of them, the ends among them."""
    keep = np.unique(np.linspace(0, len(values) - 1, min(len(values), LINES)).round().astype(int))
    return values[keep]


def _line(fit: Fit, along: str, across: str, value: float, grid: Array) -> Any:
    import pandas as pd

    frame: Any = pd.DataFrame({along: grid, across: np.full(len(grid), value)})
    for c in ("G", "E", "M"):
        frame[c] = np.nan
    out = fit.predict(frame)
    return out.assign(along=along, **{along: grid, across: value})


def _panel(ax: "Axes", fit: Fit, rows: Any, along: str, across: str) -> None:
    for i, v in enumerate(some(np.unique(rows[across]))):
        color, marker = of_order(i)
        part, line = rows[rows[across] == v], _line(fit, along, across, float(v), span(rows, along))
        ax.fill_between(
            line[along], line["run_low"], line["run_high"], color=color, alpha=0.13, lw=0
        )
        ax.plot(line[along], line["loss"], color=color, lw=1.3)
        ax.plot(part[along], part["loss"], label=f"{count(float(v))}", **series(color, marker))
    ax.axvline(rows[along].max(), color=GREY, lw=0.8, ls=(0, (2, 2)))
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda v, _: count(v))
    ax.xaxis.set_minor_formatter(lambda v, _: "")
    ax.set_xlabel({"N": "parameters N", "D": "training tokens D"}[along])
    top = float(rows["loss"].max())
    low = float(rows["loss"].min())
    ax.set_ylim(low - 0.45 * (top - low), top + 0.4 * (top - low))
    ax.legend(title={"N": "N", "D": "D"}[across], loc="upper right", ncols=2)
