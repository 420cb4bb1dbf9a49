"""What rounding finished weights costs: δ against tokens, a panel per size, a line per width."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.plots.style import COLORS, MARKERS, canvas, count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Measured δ with the fitted lines and their 95% bands; the δ axis is linear around zero, so that negative δ show."""
    fit = fits[0]
    if not fit.law.paired:
        raise ValueError(
            f"ptq needs a law with a PTQ term, such as ptq_kumar; {fit.law.full_name} has none"
        )
    rows: Any = fit.delta_rows
    sizes, widths = np.unique(rows["N"]), np.unique(rows["P_post"])
    columns = min(len(sizes), 3)
    lines = -(-len(sizes) // columns)
    fig, axes = canvas(
        3.1 * columns + 1.3, 3.4 * lines, nrows=lines, ncols=columns, sharex=True, sharey=True
    )
    # Below this a δ is mostly noise: the axis is linear there.
    smallest = max(float(np.quantile(np.abs(rows["delta_ptq"]), 0.1)), 1e-7)
    edge = 10.0 ** np.floor(np.log10(smallest))
    for ax, N in zip(axes, sizes, strict=False):
        for i, P in enumerate(widths):
            part = rows[(rows["N"] == N) & (rows["P_post"] == P)]
            _width(
                ax,
                fit,
                float(N),
                float(P),
                part["D"].to_numpy(float),
                part["delta_ptq"].to_numpy(float),
                i,
                rows["D"],
            )
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=edge, linscale=0.4)
        ax.axhline(0, color="#777777", lw=0.8)
        ax.set_title(f"N = {count(float(N))}")
        tokens = np.unique(rows["D"])
        if len(tokens) <= 6:
            ax.set_xticks(tokens)
        ax.xaxis.set_major_formatter(lambda v, _: count(v))
        ax.xaxis.set_minor_formatter(lambda v, _: "")
    for ax in axes[len(sizes) :]:
        ax.set_visible(False)
    for k, ax in enumerate(axes[: len(sizes)]):
        if k % columns == 0:
            ax.set_ylabel(r"loss added by rounding $\delta$ (nats per token)")
    fig.supxlabel("training tokens D", fontsize=10.5)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", title="weight bits\nafter training")
    return fig


def _width(
    ax: "Axes",
    fit: Fit,
    N: float,
    P: float,
    D: np.ndarray,
    delta: np.ndarray,
    i: int,
    all_D: object,
) -> None:
    color = COLORS[i % len(COLORS)]
    span = np.asarray(all_D, float)
    grid = np.geomspace(span.min() / 1.15, span.max() * 1.15, 40)
    x = fit.law.read({"N": np.full(len(grid), N), "D": grid, "P_post": np.full(len(grid), P)})
    draws = np.asarray(fit.law.penalty({k: v[:, None] for k, v in fit.samples.items()}, x))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    ax.fill_between(grid, low, high, color=color, alpha=0.18, lw=0)
    ax.plot(grid, np.asarray(fit.law.penalty(fit.params, x)), color=color, lw=1.4)
    ax.plot(
        D,
        delta,
        MARKERS[i % len(MARKERS)],
        color=color,
        ms=4.5,
        mec="white",
        mew=0.4,
        label=f"{P:g}",
    )
