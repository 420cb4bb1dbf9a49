"""Training loss against tokens, a panel per size, a colour per format."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.laws.base import named_formats
from precisionlaws.plots.style import beside, canvas, count, of_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

READS = "store"
MOST = 3  # sizes
RUNS = 400  # at most, spread over the store: a figure of more shows no more
POINTS = 120  # of a curve
FORMATS = 7
SHOWN = 8.0  # of tokens, from the end: before it all formats fall alike


def figure(store: Path) -> "Figure":
    """Smoothed loss of the longest run of each family and format; divergence shows as a rise."""
    table = numbers(store)
    sizes = np.unique(table["N"])
    sizes = sizes[np.unique(np.linspace(0, len(sizes) - 1, min(MOST, len(sizes))).round().astype(int))]  # fmt: skip
    fig, axes = canvas(2.1 * len(sizes) + 0.7, 3.6, ncols=len(sizes), sharey=True)
    names = list(dict.fromkeys(table["format"]))[:FORMATS]
    for ax, N in zip(axes, sizes, strict=True):
        part = table[table["N"] == N]
        for i, name in enumerate(names):
            for k, (_, curve) in enumerate(part[part["format"] == name].groupby("run_id")):
                label = name if k == 0 else None
                ax.plot(curve["tokens"], curve["loss"], color=of_order(i)[0], lw=0.8, alpha=0.75, label=label)  # fmt: skip
        ax.set_xscale("log")
        ax.set_title(f"N = {count(float(N))} ({part['run_id'].nunique()} runs)", fontsize=9.5)
        ax.xaxis.set_major_formatter(lambda v, _: count(v))
        ax.xaxis.set_minor_formatter(lambda v, _: "")
    axes[0].set_ylabel("training loss, smoothed (nats per token)")
    for ax in axes:
        ax.set_xlabel("tokens")
    top = float(table["tokens"].max())
    late = table[table["tokens"] > top / SHOWN]["loss"]
    for ax in axes:
        ax.set_xlim(top / SHOWN, top * 1.1)
    axes[0].set_ylim(float(late.min()) * 0.97, float(late.quantile(0.99)) * 1.03)
    handles = {str(h.get_label()): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    beside(fig, list(handles.values()), list(handles), "format")
    return fig


def numbers(store: Path) -> Any:
    """run_id, N, format, step, tokens, loss (a running mean), status."""
    import pandas as pd

    from precisionlaws.store import load

    frame: Any = load(store)
    runs = frame[frame["eval_id"] == "final"].drop_duplicates("run_id")
    runs = runs[runs["D"] == runs.groupby("family")["D"].transform("max")]
    if len(runs) > RUNS:
        runs = runs.iloc[np.linspace(0, len(runs) - 1, RUNS).astype(int)]
    runs = runs.assign(format=[f or "16 bits" for f in named_formats(_bits(runs))])
    parts = [c for r in runs.sort_values("format").to_dict("records") for c in _curve(store, r)]
    if not parts:
        raise ValueError(f"no run of {store} has a curve: their folders hold no metrics.jsonl")
    return pd.concat(parts, ignore_index=True)


def _bits(runs: Any) -> dict[str, Any]:
    return {c: runs[c].fillna(16.0).to_numpy(float) for c in ("P_w", "P_a", "P_kv")}


def _curve(store: Path, run: dict[str, Any]) -> Iterator[Any]:
    import pandas as pd

    path = Path(store) / "runs" / str(run["run_id"]) / "metrics.jsonl"
    if not path.exists() or path.stat().st_size == 0:
        return
    table: Any = pd.read_json(path, lines=True)
    if "loss" not in table or len(table) < 2:
        return
    steps = float(table["step"].max()) + 1
    window = max(len(table) // 20, 1)
    smooth = table["loss"].astype(float).rolling(window, min_periods=1).mean().to_numpy()
    keep = np.unique(np.geomspace(1, len(table), min(POINTS, len(table))).round().astype(int)) - 1
    tokens = (table["step"].to_numpy(float) + 1) * float(run["D"]) / steps
    yield pd.DataFrame({
        "run_id": run["run_id"], "N": run["N"], "format": run["format"], "step": table["step"].to_numpy()[keep],
        "tokens": tokens[keep], "loss": smooth[keep], "status": run["status"],
    })  # fmt: skip
