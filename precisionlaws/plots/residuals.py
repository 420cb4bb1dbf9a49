"""What the law leaves over, against N, D and bits and against a normal, with the certificate of the minimum."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.fitting.summary import evidence
from precisionlaws.laws.base import OFF, ROLES
from precisionlaws.plots.fit import what
from precisionlaws.plots.style import GREY, canvas, count, in_column, of_order, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 105  # characters of a line


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit."""
    fit = fits[0]
    table = numbers(fits)
    fig, axes = canvas(6.6, 5.4, nrows=2, ncols=2)
    for ax, column in zip(axes, ("N", "D", "bits"), strict=False):
        _against(ax, table, column, 100 * fit.objective.residual_sd)
    _normal(axes[3], table)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(
        handles, labels, loc="outside lower center", ncols=2 if in_column() else 4, fontsize=8
    )
    said = f"{fit.law.full_name}, {len(table)} runs: {evidence(fit.certificate)}"
    fig.suptitle("\n".join(textwrap.wrap(said, WIDE)), fontsize=8, x=0.01, ha="left")
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """N, D, bits (the fewest in any role), what (is quantized), percent: measured / fitted − 1."""
    import pandas as pd

    fit = fits[0]
    rows: Any = fit.rows
    predicted = fit.predict(rows)["loss"].to_numpy(float)
    bits = np.min([np.asarray(rows.get(f"P_{r}", np.full(len(rows), OFF)), float) for r in ROLES], 0)  # fmt: skip
    return pd.DataFrame({
        "N": rows["N"], "D": rows["D"], "bits": bits, "what": what(rows),
        "percent": 100 * (rows["loss"].to_numpy(float) / predicted - 1),
    })  # fmt: skip


def _against(ax: "Axes", table: Any, column: str, sd: float) -> None:
    rng = np.random.default_rng(0)
    for i, name in enumerate(sorted(set(table["what"]), key=lambda g: (g != "nothing", g))):
        color, marker = of_order(i)
        part = table[table["what"] == name]
        x = part[column].to_numpy(float)
        jitter = rng.uniform(-1, 1, len(x))  # values repeat on a grid
        x = x + 0.25 * jitter if column == "bits" else x * 1.06**jitter
        ax.plot(x, part["percent"], label=f"{name} ({len(part)})", **series(color, marker, 3.5))
    ax.axhline(0, color=GREY, lw=0.9)
    ax.axhspan(-sd, sd, color=GREY, alpha=0.12, lw=0)
    labels = {"N": "parameters N", "D": "training tokens D", "bits": "fewest bits in any role"}
    ax.set_xlabel(labels[column])
    ax.set_ylabel("residual (%)")
    if column == "bits":
        ax.set_xticks(np.arange(2, OFF + 1, 2))
    else:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda v, _: count(v))
        ax.xaxis.set_minor_formatter(lambda v, _: "")


def _normal(ax: "Axes", table: Any) -> None:
    from scipy import special

    r = np.sort(table["percent"].to_numpy(float))
    z = special.ndtri((np.arange(len(r)) + 0.5) / len(r))
    ax.plot(z, r, **series("#0072B2", "o", 3.5))
    q = np.quantile(r, [0.25, 0.75])
    slope = (q[1] - q[0]) / (2 * 0.67449)
    ax.plot(z, np.median(r) + slope * z, color=GREY, lw=1.0)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel("residual (%)")
