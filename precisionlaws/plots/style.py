"""One look for all figures, without pyplot and its global state."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from precisionlaws.planning.costs import FLOPS_PER_TOKEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008: told apart by every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#777777"
RC: Any = {
    "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10.5, "legend.fontsize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7, "axes.axisbelow": True, "legend.frameon": True, "legend.edgecolor": "none", "legend.framealpha": 0.75,
    "legend.borderpad": 0.2, "savefig.dpi": 200, "figure.dpi": 110,
    "font.family": "DejaVu Sans", "pdf.fonttype": 42, "svg.hashsalt": "precisionlaws",
}  # fmt: skip


def styled(draw: Callable[[Any], "Figure"], fits: Any) -> "Figure":
    """The figure that `draw` makes, under the common style."""
    from matplotlib import rc_context

    with rc_context(RC):
        return draw(fits)


def canvas(width: float, height: float, **grid: Any) -> "tuple[Figure, list[Axes]]":
    """A figure on the Agg canvas, with its axes in reading order."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(squeeze=False, **grid)
    return fig, list(np.ravel(axes))


def spent(rows: Any) -> Any:
    """FLOPs of each run as budgets count them, 6ND."""
    return FLOPS_PER_TOKEN * (rows["N"] * rows["D"]).to_numpy(float)


def of_order(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th series: told apart by both."""
    return COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]


def series(color: str, marker: str, size: float = 4.5) -> Any:
    """Of measured points: markers without a line."""
    return {"color": color, "marker": marker, "ms": size, "ls": "none", "mec": "white", "mew": 0.4}


def count(value: float) -> str:
    """7k, 1.5M, 30G: numbers of parameters and tokens."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
