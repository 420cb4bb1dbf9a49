"""Loss against all the bits that a model takes: blocks as they are stored, embedding and head at 16 bits.

Which size at which width, trained or rounded by which method, is worth its memory? A point is a mean over
seeds. Norms and biases, and codebooks that all matrices share, are left out.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.laws.base import OFF
from precisionlaws.plots.style import beside, canvas, count, of_order, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READS = "store"
TRAINED, PLAIN = "trained", "16 bits"


def figure(store: Path) -> "Figure":
    """Runs of the largest D with nothing but weights below 16 bits; a line joins the widths of one size and method,
    the staircase is the least loss for so many bits."""
    from matplotlib.ticker import LogLocator

    table = numbers(store)
    fig, (ax,) = canvas(6.6, 4.4)
    for i, (name, part) in enumerate(table.groupby("method", sort=False)):
        color, marker = ("#000000", "*") if name == PLAIN else of_order(i)
        style = series(color, marker, 7 if name == PLAIN else 5)
        ax.plot(part["model_bits"], part["loss"], label=f"{name} ({len(part)})", **style)
        for _, same in part.groupby("N"):  # from left to right: the widths of one size
            ax.plot(same["model_bits"], same["loss"], color=color, lw=0.6, alpha=0.6)
    front = table[table["front"]].sort_values("model_bits")
    ax.step(front["model_bits"], front["loss"], where="post", color="#444444", lw=1.0, zorder=1)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    ax.xaxis.set_major_formatter(lambda v, _: count(v))
    ax.xaxis.set_minor_formatter(lambda v, _: "")
    ax.set_xlabel("bits of the model (blocks as stored; embedding and head at 16)")
    ax.set_ylabel("held-out loss (nats per token)")
    ax.set_title(f"{len(table)} points at D = {table['D'].iloc[0]:.3g} tokens", loc="left")
    beside(fig, *ax.get_legend_handles_labels(), "weights")
    return fig


def numbers(store: Path) -> Any:
    """N, D, method, bits, bits_effective, model_bits, loss, seeds, front of the largest D."""
    from precisionlaws.store import load

    frame: Any = load(store)
    frame = frame[
        (frame["status"] == "finished") & (frame["phase"] == "final") & frame["loss"].gt(0)
    ]
    frame = frame[frame[["P_a", "P_kv"]].ge(OFF).all(axis=1)]
    after = frame["P_post"] < OFF
    frame = frame[~after | (frame["P_w"] >= OFF)]  # rounded twice is another question
    if len(frame) == 0:
        raise ValueError(f"no finished run of {store} has activations and KV at 16 bits")
    frame = frame[frame["D"] == frame["D"].max()]
    bits = frame[["P_w", "P_post"]].min(axis=1)
    stored = frame["bits_effective"].fillna(bits) if "bits_effective" in frame else bits
    rest = sum(frame[c].fillna(0.0) for c in ("N_head", "N_emb") if c in frame)
    table = frame.assign(
        method=labels(frame),
        bits=bits,
        bits_effective=stored,
        model_bits=frame["N"] * stored + OFF * rest,
    )
    keys = ["method", "N", "D", "bits", "bits_effective", "model_bits"]
    table = table.groupby(keys, as_index=False).agg(loss=("loss", "mean"), seeds=("loss", "size"))
    table = table.sort_values(["model_bits", "loss"], ignore_index=True)
    table["front"] = table["loss"] <= table["loss"].cummin()
    first = table["method"].map({PLAIN: 0, TRAINED: 1}).fillna(2)
    return table.assign(order=first).sort_values(["order", "method", "model_bits"], ignore_index=True).drop(columns="order")  # fmt: skip


def labels(frame: Any) -> Any:
    """16 bits, trained, or the PTQ method, with its granularity where a store has several."""
    after = frame["P_post"] < OFF
    name = frame.get("ptq", "rounded")
    if {"ptq.granularity", "ptq.group"} <= set(frame):
        by_group = "g" + frame["ptq.group"].map("{:g}".format)
        kind = by_group.where(frame["ptq.granularity"] == "group", frame["ptq.granularity"])
        if kind[after].nunique() > 1:
            name = name + " " + kind.fillna("")
    return np.where(after, name, np.where(frame["P_w"] < OFF, TRAINED, PLAIN))
