"""The best width against compute, by law and cost model, beside what was published."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.planning.beliefs import POOL, beliefs
from precisionlaws.plots.effective import usable
from precisionlaws.plots.style import canvas, of_order, spent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = ("paper", "a100_int")
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))  # of published laws
DECADES = 6  # of compute above the largest run


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """95% bands of P* of each fit; published constants dashed; the grey region is where runs were measured."""
    usable(fits)
    table = numbers(fits)
    fig, axes = canvas(6.6, 3.9, ncols=len(COSTS), sharey=True)
    C = spent(fits[0].rows)
    for ax, cost in zip(axes, COSTS, strict=True):
        own = table[(table["cost"] == cost) & ~table["published"]]
        for i, (name, part) in enumerate(own.groupby("law", sort=False)):
            color, marker = of_order(i)
            style = {"color": color, "marker": marker, "ms": max(8 - 3 * i, 3), "lw": max(3.2 - 1.8 * i, 1)}  # laws that agree  # fmt: skip
            ax.fill_between(part["flops"], part["low"], part["high"], color=color, alpha=0.14, lw=0)
            ax.plot(part["flops"], part["P"], label=str(name).removeprefix("chinchilla+"), **style)
        said = table[(table["cost"] == cost) & table["published"]]
        for (name, part), dashes in zip(said.groupby("law", sort=False), cycle(DASHES), strict=False):  # fmt: skip
            ax.plot(part["flops"], part["P"], color="black", lw=1.3, ls=dashes, label=f"{name}, published")  # fmt: skip
        ax.axvspan(float(C.min()), float(C.max()), color="#999999", alpha=0.15, lw=0)
        ax.set_xscale("log")
        ax.set_title(f"cost: {cost}", loc="left")
        ax.set_xlabel("budget (FLOP); grey: measured")
        ax.set_ylim(0, 16.5)
        ax.set_yticks([2, 4, 6, 8, 10, 12, 14, 16])
    axes[0].set_ylabel("compute-optimal width P* (bits)")
    axes[0].legend(loc="upper left", fontsize=8)
    fig.suptitle(f"{len(fits[0].rows)} runs in {fits[0].clusters} families; bands: 95%", fontsize=9, x=0.01, ha="left")  # fmt: skip
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """`planning.beliefs` over budgets from the measured ones to far beyond."""
    C = spent(fits[0].rows)
    flops = np.geomspace(float(C.min()), float(C.max()) * 10**DECADES, 6)
    table: Any = beliefs(usable(fits), flops=list(flops), costs=COSTS)
    return table[table["law"] != POOL].reset_index(drop=True)
