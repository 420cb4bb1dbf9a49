"""Loss against the bytes that the block weights take, trained or rounded at P bits: which width is worth its memory."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import OFF
from precisionlaws.plots.style import beside, canvas, of_order, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(fits: tuple[Fit, ...]) -> "Figure":
    """Runs of the largest D that has several widths, with nothing but weights below 16 bits; the staircase is the least loss for so many bytes."""
    table = numbers(fits)
    fig, (ax,) = canvas(6.2, 4.4)
    for i, b in enumerate(sorted(set(table["bits"]))):
        color, marker = of_order(i)
        for how, fill in (("trained", color), ("rounded", "white")):
            part = table[(table["bits"] == b) & (table["how"] == how)]
            if len(part):
                label = f"{b:g} bits, {how} ({len(part)})" if b < OFF else f"16 bits ({len(part)})"
                style = series(color, marker) | {"mfc": fill, "mec": color}
                ax.plot(part["bytes"], part["loss"], label=label, **style)
    best = table.sort_values(["bytes", "loss"])
    best = best[best["loss"] <= best["loss"].cummin()]
    ax.step(best["bytes"], best["loss"], where="post", color="#444444", lw=1.0)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda v, _: _bytes(v))
    ax.xaxis.set_minor_formatter(lambda v, _: "")
    ax.set_xlabel("block weights, N·P/8 (bytes)")
    ax.set_ylabel("held-out loss (nats per token)")
    ax.set_title(f"{len(table)} points at D = {table['D'].iloc[0]:.3g} tokens", loc="left")
    beside(fig, *ax.get_legend_handles_labels(), "weights (points)")
    return fig


def numbers(fits: tuple[Fit, ...]) -> Any:
    """N, D, bits, how (trained or rounded), bytes, loss of the largest D."""
    import pandas as pd

    parts = []
    for one in fits:
        for rows, column, how in ((one.rows, "P_w", "trained"), (one.delta_rows, "P_post", "rounded")):  # fmt: skip
            t: Any = rows
            if len(t) == 0 or column not in t:
                continue
            others = [c for c in ("P_w", "P_a", "P_kv") if c in t and c != column]
            kept = t[np.logical_and.reduce([t[c] >= OFF for c in others] + [t["loss"] > 0])]
            parts.append(pd.DataFrame({
                "N": kept["N"], "D": kept["D"], "bits": kept[column], "how": how,
                "bytes": kept["N"] * kept[column] / 8, "loss": kept["loss"],
            }))  # fmt: skip
    table: Any = pd.concat(parts, ignore_index=True).drop_duplicates(ignore_index=True)
    several = table.groupby("D")["bits"].nunique() > 1
    if (table["bits"] >= OFF).all() or not several.any():
        raise ValueError(
            "pareto needs runs with weights below 16 bits, trained or rounded, at the D of others"
        )
    return table[table["D"] == several[several].index.max()].reset_index(drop=True)


def _bytes(v: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if v >= size:
            return f"{v / size:.3g} {unit}"
    return f"{v:.3g} B"
