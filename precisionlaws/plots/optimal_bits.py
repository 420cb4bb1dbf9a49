"""Effective compute against bits: eff(P)/c(P), whose maximum is the best width for any base and budget."""

from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF
from precisionlaws.planning.costs import relative_cost
from precisionlaws.planning.optimum import best_width
from precisionlaws.planning.widths import Widths, continuous, efficiency, widths
from precisionlaws.plots.style import COLORS, MARKERS, canvas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COST = "paper"
REGRET = 0.05


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """One curve or set of points per law; the 5% regret set is that of the form-free law if it is there."""
    check(fits)
    fig, (ax,) = canvas(6.6, 4.4)
    tables = [widths(f) for f in fits]
    free = [i for i, f in enumerate(fits) if not continuous(f.law)]
    lead = free[0] if free else 0
    _shade(ax, tables[lead])
    for i, (fit, table) in enumerate(zip(fits, tables, strict=True)):
        (_curve if continuous(fit.law) else _points)(ax, fit, table, i)
    ax.axhline(1.0, color="#777777", lw=0.9, ls=(0, (4, 3)))
    ax.annotate(
        "16-bit training",
        (OFF, 1.0),
        xytext=(0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color="#555555",
    )
    ax.set_xlim(min(t.P[0] for t in tables) - 0.5, OFF + 0.5)
    ax.set_ylim(bottom=0)
    ax.set_xticks(
        np.arange(np.ceil(ax.get_xlim()[0]), OFF + 1, 1 if OFF - tables[0].P[0] < 9 else 2)
    )
    ax.set_xlabel(f"training precision P (bits; {_roles(tables[lead])})")
    ax.set_ylabel("effective compute relative to 16 bits\n" r"$\mathrm{eff}(P)\,/\,(P/16)$")
    ax.set_title(f"{len(fits[lead].rows)} runs in {fits[lead].clusters} families", loc="left")
    ax.legend(loc="upper right")
    return fig


def check(fits: tuple[Fit, ...]) -> None:
    """Raises: ValueError for a law whose best width hangs on the budget, or without bits."""
    plain = [
        f.law.full_name
        for f in fits
        if not f.measured or not f.law.on("N") or f.law.on("D") or f.law.added
    ]
    if plain:
        raise ValueError(
            f"optimal-bits needs laws with an efficiency of bits and runs below 16 bits; {plain[0]} has none"
        )


def numbers(fits: tuple[Fit, ...]) -> "pd.DataFrame":
    """law, P, gain with its 95% interval, interpolated: at whole widths."""
    import pandas as pd

    check(fits)
    out = []
    for fit in fits:
        table = widths(fit)
        c = relative_cost(COST)(table.P)
        low, high = _band(table.draws / c)
        out.append(pd.DataFrame({"law": fit.law.full_name, "P": table.P, "gain": table.eff / c, "low": low, "high": high, "interpolated": ~table.trained}))  # fmt: skip
    return pd.concat(out, ignore_index=True)


def _curve(ax: "Axes", fit: Fit, table: Widths, i: int) -> None:
    c, color = relative_cost(COST), COLORS[i % len(COLORS)]
    point = {k: np.array([v]) for k, v in fit.params.items()}
    P = np.linspace(float(table.P[0]), OFF - 1e-9, 200)
    gain, draws = (
        efficiency(fit.law, {k: v[:, None] for k, v in p.items()}, P, table.roles) / c(P)
        for p in (point, fit.samples)
    )
    low, high = _band(draws)
    best, cloud = (
        best_width(fit.law, p, 1.0, c, float(table.P[0]), table.roles, {})
        for p in (point, fit.samples)
    )
    ax.fill_between(P, low, high, color=color, alpha=0.15, lw=0)
    ax.plot(P, gain[0], color=color, lw=1.8, label=_label(fit, float(best[0]), cloud))
    _interval(ax, i, float(best[0]), cloud)


def _points(ax: "Axes", fit: Fit, table: Widths, i: int) -> None:
    c, color, marker = relative_cost(COST)(table.P), COLORS[i % len(COLORS)], MARKERS[i % 7]
    gain, draws = table.eff / c, table.draws / c
    low, high = _band(draws)
    best, cloud = float(table.P[np.argmax(gain)]), table.P[np.argmax(draws, 1)]
    ax.vlines(table.P, low, high, color=color, lw=1.2)
    known = table.trained
    label = _label(fit, best, cloud)
    ax.plot(table.P[known], gain[known], marker, color=color, ms=6, label=label)
    if not known.all():
        label = "   interpolated: not trained in every role"
        ax.plot(table.P[~known], gain[~known], marker, color=color, mfc="white", ms=6, label=label)
    _interval(ax, i, best, cloud)


def _interval(ax: "Axes", i: int, best: float, cloud: np.ndarray) -> None:
    """P* and its 95% interval, just above the axis."""
    low, high = np.quantile(cloud, [0.025, 0.975])
    height, color = ax.get_xaxis_transform(), COLORS[i % len(COLORS)]
    y = 0.05 + 0.05 * i
    ax.plot([low, high], [y, y], color=color, lw=2.2, transform=height, solid_capstyle="butt")
    ax.plot([best], [y], "*", color=color, mec="white", mew=0.7, ms=13, transform=height, zorder=5)
    if i == 0:
        ax.text(
            max(high, best) + 0.35,
            y,
            "P* with 95% interval",
            transform=height,
            va="center",
            fontsize=9,
        )


def _shade(ax: "Axes", table: Widths) -> None:
    """Widths within 5% of the best; a neighbouring pair is shaded as one."""
    gain = table.eff / relative_cost(COST)(table.P)
    for k, P in enumerate(table.P[gain >= (1 - REGRET) * gain.max()]):
        ax.axvspan(
            P - 0.5,
            P + 0.5,
            color="#f2e6b8",
            alpha=0.7,
            lw=0,
            zorder=0,
            label="wastes at most 5% of compute" if k == 0 else None,
        )


def _band(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(np.where(np.isnan(draws), 0.0, draws), [0.025, 0.975], axis=0)
    return low, high


def _label(fit: Fit, best: float, cloud: np.ndarray) -> str:
    low, high = np.quantile(cloud, [0.025, 0.975])
    return f"{fit.law.name}: P* = {best:.3g} (95%: {low:.3g} to {high:.3g})"


def _roles(table: Widths) -> str:
    names = {"w": "weights", "a": "activations", "kv": "KV cache"}
    return ", ".join(names[r] for r in table.roles)
