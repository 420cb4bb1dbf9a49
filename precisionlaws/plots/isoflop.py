"""Loss along budgets: for each 6ND the law's curve over N, its minimum, and the runs near it."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.planning.costs import FLOPS_PER_TOKEN
from precisionlaws.planning.optimum import split
from precisionlaws.plots.loss import plain
from precisionlaws.plots.style import beside, canvas, count, in_column, of_order, series, spent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BUDGETS = 4
NEAR = 1.35  # runs within this factor of a budget are drawn at it


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Of the first fit, at 16 bits: 95% bands of the mean, and N* with its 95% interval."""
    fit = fits[0]
    rows = plain(fit)
    fig, (ax,) = canvas(6.0, 4.4)
    lines, stars = numbers(fits), optima(fit)
    for i, star in enumerate(stars.to_dict("records")):
        color, marker = of_order(i)
        C = star["flops"]
        line = lines[lines["flops"] == C]
        ax.fill_between(line["N"], line["low"], line["high"], color=color, alpha=0.13, lw=0)
        near = rows[np.abs(np.log(spent(rows) / C)) < np.log(NEAR)]
        ax.plot(line["N"], line["loss"], color=color, lw=1.4, label=f"{C:.2g} FLOP ({len(near)} runs near)")  # fmt: skip
        ax.plot(near["N"], near["loss"], **series(color, marker))
        ax.plot([star["N_low"], star["N_high"]], [star["loss"]] * 2, color=color, lw=2.4, alpha=0.7)
        ax.plot(star["N"], star["loss"], "*", color=color, mec="black", mew=0.6, ms=13, zorder=5)
    ax.set_xscale("log")
    ax.set_xlim(rows["N"].min() / 4, rows["N"].max() * 4)
    top, low = float(lines["loss"].max()), float(stars["loss"].min())
    seen = lines[(lines["N"] > rows["N"].min() / 2) & (lines["N"] < rows["N"].max() * 2)]["loss"]
    ax.set_ylim(low - 0.15 * (top - low), min(top, float(seen.max())) + 0.1 * (top - low))
    ax.xaxis.set_major_formatter(lambda v, _: count(v))
    ax.xaxis.set_minor_formatter(lambda v, _: "")
    ax.set_xlabel("parameters N, with D = C/(6N)")
    ax.set_ylabel("held-out loss (nats per token)")
    ax.set_title(f"{fit.law.full_name}, {len(rows)} runs at 16 bits; ★ N* with 95% interval", loc="left", fontsize=9.5)  # fmt: skip
    if in_column():
        beside(fig, *ax.get_legend_handles_labels(), "")
    else:
        ax.legend(loc="upper center", fontsize=8)
    return fig


def budgets(fit: Fit) -> np.ndarray:
    """Budgets that were spent, those first at which most sizes were trained, a factor of 2 apart."""
    rows = plain(fit)
    if len(rows) == 0:
        raise ValueError("isoflop needs runs at 16 bits, and this fit has none")
    N, C = rows["N"].to_numpy(float), spent(rows)
    known = np.unique(C)
    sizes = [len(np.unique(N[np.abs(np.log(C / c)) < np.log(NEAR)])) for c in known]
    chosen: list[float] = []
    for c in known[np.argsort(sizes, kind="stable")[::-1]]:
        if len(chosen) < BUDGETS and all(max(c / b, b / c) > 2 for b in chosen):
            chosen.append(float(c))
    return np.sort(chosen)


def numbers(fits: tuple[Fit, ...]) -> Any:
    """flops, N, D, loss, low, high along each budget."""
    import pandas as pd

    fit, out = fits[0], []
    rows = plain(fit)
    N = np.geomspace(rows["N"].min() / 4, rows["N"].max() * 4, 60)
    for C in budgets(fit):
        D = C / (FLOPS_PER_TOKEN * N)
        p = {k: v[:, None] for k, v in fit.samples.items()}
        with np.errstate(all="ignore"):
            draws = fit.law.base.loss(p, N, D)
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
        loss = fit.law.base.loss(fit.params, N, D)
        out.append(
            pd.DataFrame({"flops": C, "N": N, "D": D, "loss": loss, "low": low, "high": high})
        )
    return pd.concat(out, ignore_index=True)


def optima(fit: Fit) -> Any:
    """flops, N, N_low, N_high, D, loss: the minimum of each curve."""
    import pandas as pd

    out = []
    for C in budgets(fit):
        K = C / FLOPS_PER_TOKEN
        N, D, loss = (float(v) for v in split(fit.law, fit.params, np.array(K), np.array(1.0), {}))
        draws = split(fit.law, fit.samples, np.full(len(next(iter(fit.samples.values()))), K), 1.0, {})[0]  # fmt: skip
        low, high = np.nanquantile(draws, [0.025, 0.975])
        out.append({"flops": C, "N": N, "N_low": low, "N_high": high, "D": D, "loss": loss})
    return pd.DataFrame(out)
