"""Number formats of the weights: what each leaves of a model, and what its error on normal values foretells."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.laws.neff_gmse import LEAST, MOST, gmse
from precisionlaws.plots.style import COLORS, GREY, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from precisionlaws.fitting.formats import Ranking

READS = "store"


def figure(store: Path) -> "Figure":
    """Left, the ranking with 95% intervals, and predictions from the other formats; right, against the error."""
    found = ranked(store)
    t, predicted = found.table, found.law is not None
    fig, axes = canvas(5.6 + 3.6 * predicted, 1.0 + 0.27 * len(t), ncols=1 + predicted)
    y = np.arange(len(t))
    ax = axes[0]
    interval(ax, t["eff"], t["eff_low"], t["eff_high"], y)
    ax.plot(t["eff"], y, "o", color=COLORS[0], ms=4.5, label="measured")
    if predicted:
        ax.plot(t["predicted"], y, "D", mfc="none", color=COLORS[1], ms=4.5, label="from the others")  # fmt: skip
        ax.legend(loc="lower right")
    ax.set_yticks(y, [f"{n} ({r})" for n, r in zip(t["format"], t["runs"], strict=True)])
    ax.invert_yaxis()
    ax.axvline(1.0, color=GREY, lw=0.9, ls=(0, (4, 3)))
    ax.set_xlim(0, limit(t))
    ax.set_xlabel(r"effective parameters $N_\mathrm{eff}\,/\,N$ (runs)")
    if predicted:
        against_error(axes[1], found)
    return fig


def against_error(ax: Any, found: "Ranking") -> None:
    t = found.table
    assert found.law is not None
    ax.vlines(t["gmse"], t["eff_low"].clip(lower=0), t["eff_high"].clip(upper=limit(t)), color=COLORS[0], lw=1.1)  # fmt: skip
    ax.plot(t["gmse"], t["eff"], "o", color=COLORS[0], ms=4.5)
    P = np.linspace(LEAST, MOST, 120)
    errors = np.interp(P, np.arange(LEAST, MOST + 1), [np.log(gmse(b)[0]) for b in range(LEAST, MOST + 1)])  # fmt: skip
    off = np.full_like(P, 16.0)
    line = found.law.law.scale(found.law.params, {"P_w": P, "P_a": off, "P_kv": off})
    inside = np.exp(errors) >= 0.5 * float(t["gmse"].min())
    ax.plot(np.exp(errors)[inside], line[inside], color=COLORS[1], lw=1.4, label="neff_gmse")
    ax.axhline(1.0, color=GREY, lw=0.9, ls=(0, (4, 3)))
    ax.set_xscale("log")
    ax.set_ylim(0, limit(t))
    ax.set_xlabel("squared error on N(0, 1)")
    ax.legend(loc="lower left")


def interval(ax: Any, middle: Any, low: Any, high: Any, y: Any) -> None:
    top = limit({"eff": middle, "eff_high": high})
    ax.hlines(y, np.clip(low, 0, top), np.clip(high, 0, top), color=COLORS[0], lw=1.3)


def limit(t: Any) -> float:
    """Of the axis: a format with one family has an interval without end."""
    return float(min(max(1.1, np.max(t["eff"]) * 1.15), 2.0))


def ranked(store: Path) -> "Ranking":
    from precisionlaws.fitting.formats import rank
    from precisionlaws.store import load

    return rank(load(store), resamples=1000)


def numbers(store: Path) -> Any:
    """The columns of fitting.formats.COLUMNS."""
    return ranked(store).table
