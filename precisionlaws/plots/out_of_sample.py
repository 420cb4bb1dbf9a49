"""How far each law errs at runs larger than those it was fitted to, over all rolling origins."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit, compare
from precisionlaws.fitting.compare import on_bases
from precisionlaws.plots.style import GREY, canvas, of_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASES = ("chinchilla", "gamma")


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """One line per law, the best first; filled: in the 95% model confidence set; a grey tick is the error in sample."""
    table = numbers(fits)
    fig, (ax,) = canvas(6.4, 1.3 + 0.42 * len(table))
    for y, r in enumerate(table.to_dict("records")):
        color = of_order(0 if r["in_set"] else 1)[0]
        ax.plot([100 * r["low"], 100 * r["high"]], [y, y], color=color, lw=2.2, alpha=0.6)
        fill = color if r["in_set"] else "white"
        ax.plot(100 * r["heldout_rms"], y, "o", color=color, mfc=fill, ms=7)
        ax.plot(100 * r["rms"], y, "|", color=GREY, ms=13, mew=2)
    ax.set_yticks(np.arange(len(table)), table["full_name"])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.margins(y=0.15)
    first = table.iloc[0]
    ax.set_xlabel("rms error at larger runs (%); grey: in sample")
    ax.set_title(
        f"{first['heldout']} predictions, {first['origins']} origins, {first['families']} families\n"
        "filled: not told from the best at 95%", loc="left", fontsize=9,
    )  # fmt: skip
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """The table of `compare` over the laws of the fits, each on two bases."""
    return _compared(tuple(fits)).copy()


@lru_cache(maxsize=1)  # a report shows it twice
def _compared(fits: tuple[Fit, ...]) -> Any:
    laws = list({f.law.full_name: f.law for f in fits}.values())
    return compare(fits[0].rows, on_bases(laws, BASES))
