"""Where the next runs should be: the measured N and D, and the numbered runs that settle the best width."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import ROLES
from precisionlaws.planning.next import next_runs
from precisionlaws.plots.style import canvas, count, of_order, spent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K = 8
BUDGET = 10.0  # times the largest measured


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit, or between two: numbers are the order, the colour is the format."""
    rows: Any = fits[0].rows
    table = numbers(fits)
    fig, (ax, side) = canvas(6.6, 4.2, ncols=2, width_ratios=[3, 1.7])
    cells = rows.groupby(["N", "D"]).size().reset_index(name="runs")
    ax.scatter(cells["N"], cells["D"], s=12 + 3 * cells["runs"], color="#bbbbbb", label=f"measured ({len(rows)} runs)")  # fmt: skip
    names, aim = list(dict.fromkeys(table["format"])), str(table["aim"].iloc[0])
    places: dict[tuple[float, float], int] = {}
    for i, r in enumerate(table.to_dict("records")):
        at = (float(r["N"]), float(r["D"]))
        k = places[at] = places.get(at, -1) + 1
        # Runs at one place fan out upwards, at the distance of a symbol.
        ax.annotate(
            str(i + 1), at, xytext=(14 + 17 * (k % 3), 8 + 17 * (k // 3)), textcoords="offset points",
            ha="center", va="center", color="white", fontsize=8, fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.25", "fc": of_order(names.index(r["format"]))[0], "ec": "none"},
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="parameters N", ylabel="training tokens D")
    ax.set_xlim(rows["N"].min() / 1.6, rows["N"].max() * 4.5)
    ax.set_ylim(rows["D"].min() / 1.6, rows["D"].max() * 4.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda v, _: count(v))
        axis.set_minor_formatter(lambda v, _: "")
    ax.legend(loc="upper left")
    _told(side, table, names)
    fig.suptitle(f"next runs, to settle {aim}", fontsize=10, x=0.01, ha="left")
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """`planning.next` at a budget of ten times the largest run's, with the format in words."""
    first, *rest = fits
    most = float(spent(first.rows).max())
    other = next((f for f in rest if f.law.full_name != first.law.full_name), None)
    table: Any = next_runs(first, K, flops=BUDGET * most, other=other)
    names = [
        "".join(f"{r}{b:g}" for r, b in zip(ROLES, bits, strict=True) if b < 16) or "16 bits"
        for bits in table[[f"P_{r}" for r in ROLES]].to_numpy(float)
    ]
    return table.assign(format=names)


def _told(ax: Any, table: Any, names: list[str]) -> None:
    """What is left of the question after each run."""
    two = " or " in table["aim"].iloc[0] and "bits" not in table["aim"].iloc[0]
    left = table["left"].to_numpy(float) * (1 if two else 100)
    y = np.arange(len(left))
    colors = [of_order(names.index(n))[0] for n in table["format"]]
    ax.barh(y, left, color=colors, height=0.72)
    ax.set_yticks(y, [f"{i + 1}: {n}, seed {s}" for i, (n, s) in enumerate(zip(table["format"], table["seed"], strict=True))], fontsize=8)  # fmt: skip
    ax.invert_yaxis()
    ax.yaxis.tick_right()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("log likelihood ratio" if two else "variance left (%)")
