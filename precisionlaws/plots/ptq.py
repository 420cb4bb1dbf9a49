"""What rounding finished weights costs: δ against tokens, a panel per size, a line per width."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.planning.critical import critical_D
from precisionlaws.plots.style import COLORS, MARKERS, beside, canvas, count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 40.0  # times the largest D: a D_crit beyond it is not drawn


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Measured δ with the fitted lines and their 95% bands; the δ axis is linear around zero, so that negative δ show."""
    fit = fits[0]
    if not fit.law.paired:
        raise ValueError(
            f"ptq needs a law with a PTQ term, such as ptq_kumar; {fit.law.full_name} has none"
        )
    rows: Any = fit.delta_rows
    turns = numbers(fits)
    sizes, widths = np.unique(rows["N"]), np.unique(rows["P_post"])
    columns = min(len(sizes), 3)
    lines = -(-len(sizes) // columns)
    fig, axes = canvas(
        2.0 * columns + 1.0, 3.0 * lines, nrows=lines, ncols=columns, sharex=True, sharey=True
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
        ax.set_title(f"N = {count(float(N))} ({(rows['N'] == N).sum()} points)", fontsize=9.5)
        _turning(ax, fit, turns[turns["N"] == N], widths, float(rows["D"].max()))
        tokens = np.unique(rows["D"])
        if len(tokens) <= 6 and float(turns["D_crit"].to_numpy().min()) > FAR * float(
            rows["D"].max()
        ):
            ax.set_xticks(tokens)
        ax.xaxis.set_major_formatter(lambda v, _: count(v))
        ax.xaxis.set_minor_formatter(lambda v, _: "")
    for ax in axes[len(sizes) :]:
        ax.set_visible(False)
    for k, ax in enumerate(axes[: len(sizes)]):
        ax.set_xlabel("training tokens D")
        if k % columns == 0:
            ax.set_ylabel("loss added by rounding, δ\n(nats per token)")
    handles, labels = axes[0].get_legend_handles_labels()
    beside(fig, handles, labels, "weight bits\nafter training\n(★ D_crit)")
    return fig


def numbers(fits: tuple[Fit, ...]) -> "pd.DataFrame":
    """N, P_post, D_crit with its 95% interval: tokens beyond which more training hurts after rounding."""
    import pandas as pd

    fit, out = fits[0], []
    rows: Any = fit.delta_rows
    for N in np.unique(rows["N"]):
        for P in np.unique(rows["P_post"]):
            with np.errstate(all="ignore"):
                D, cloud = (critical_D(fit.law, p, {"N": N, "P_post": P}) for p in (fit.params, fit.samples))  # fmt: skip
            low, high = np.quantile(cloud, [0.025, 0.975], method="nearest")
            out.append(
                {"N": N, "P_post": P, "D_crit": float(D), "D_crit_low": low, "D_crit_high": high}
            )
    return pd.DataFrame(out)


def _turning(ax: "Axes", fit: Fit, turns: Any, widths: np.ndarray, last: float) -> None:
    """D_crit on each line, with its 95% interval, where it is not too far beyond the data."""
    for i, P in enumerate(widths):
        r = turns[turns["P_post"] == P].iloc[0]
        if r["D_crit"] > FAR * last:
            continue
        D = np.geomspace(last, r["D_crit"], 20) if r["D_crit"] > last else np.array([r["D_crit"]])
        x = fit.law.read({"N": np.full(len(D), r["N"]), "D": D, "P_post": np.full(len(D), P)})
        delta = np.asarray(fit.law.penalty(fit.params, x))
        color = COLORS[i % len(COLORS)]
        ax.plot(D, delta, color=color, lw=1.0, ls=(0, (2, 2)))
        ends = [r["D_crit_low"], min(r["D_crit_high"], 3 * FAR * last)]
        ax.plot(ends, [delta[-1]] * 2, color=color, lw=1.6, alpha=0.6)
        ax.plot(D[-1], delta[-1], "*", color=color, mec="black", mew=0.5, ms=11, zorder=5)


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
