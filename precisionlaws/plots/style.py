"""One look for all figures, without pyplot and its global state, at the width of a page or of a column.

A figure is laid out once, for a page. In a column its panels stand below each other, what they share is
said once, long titles are broken, and type stays at the size it is read at.
"""

import textwrap
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import pairwise
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


COLUMN: Any = {
    "font.size": 7.5, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 6.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "figure.titlesize": 7.5, "lines.markersize": 4, "savefig.dpi": 300, "legend.title_fontsize": 6.5,
}  # fmt: skip
WIDTHS = {
    "page": 6.6,
    "column": 3.3,
}  # inches; a figure with more panels takes a little more of a page
PANEL = (1.25, 2.3)  # inches: least and greatest height of one of several panels in a column
TALL = 6.4  # inches: of all panels together, which leaves room for a caption
LETTER = 0.55  # of the type size: how wide a letter is

_width: ContextVar[str] = ContextVar("width", default="page")


def styled(draw: Callable[[Any], "Figure"], fits: Any, width: str = "page") -> "Figure":
    """The figure that `draw` makes, under the common style."""
    from matplotlib import rc_context

    if width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(WIDTHS)}, got {width!r}")
    token = _width.set(width)
    try:
        with rc_context(RC | (COLUMN if in_column() else {})):
            figure = draw(fits)
            if in_column():
                _narrow(figure)
            return figure
    finally:
        _width.reset(token)


def in_column() -> bool:
    """Whether the figure that is being drawn stands in a column."""
    return _width.get() == "column"


def canvas(width: float, height: float, **grid: Any) -> "tuple[Figure, list[Axes]]":
    """A figure on the Agg canvas, with its axes in reading order."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if in_column():
        width, height, grid = _stacked(width, height, grid)
    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(squeeze=False, **grid)
    return fig, list(np.ravel(axes))


def beside(figure: "Figure", handles: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """A legend of all panels: to their right on a page, below them in a column, which grows by it."""
    if not in_column():
        figure.legend(handles, labels, loc="outside right center", title=title)
        return
    letters = 72 * WIDTHS["column"] / (LETTER * COLUMN["legend.fontsize"])
    across = int(max(1, min(4, letters // (max(map(len, labels), default=1) + 7))))
    title = " ".join(title.split())
    lines = -(-len(labels) // across) + bool(title)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.14 * lines)
    figure.legend(handles, labels, loc="outside lower center", ncols=across, title=title)


def _stacked(
    width: float, height: float, grid: dict[str, Any]
) -> tuple[float, float, dict[str, Any]]:
    """Size and grid of a page's figure in a column."""
    across, down = grid.get("ncols", 1), grid.get("nrows", 1)
    target = WIDTHS["column"]
    if across == 1:
        return target, min(height * max(target / width, 0.6), TALL + 0.4), grid
    each = min(max(height / down * target * across / width, PANEL[0]), PANEL[1], TALL / (across * down))  # fmt: skip
    kept = {k: v for k, v in grid.items() if k in ("sharex", "sharey")}
    return target, 0.4 + each * across * down, {**kept, "nrows": across * down, "ncols": 1}


def _narrow(figure: "Figure") -> None:
    """Say once what panels share, and break what is too long for a column."""
    axes = [a for a in figure.axes if a.get_visible()]
    labels = [a.get_ylabel() for a in axes]
    together = len(axes) > 1 and axes[0].get_shared_y_axes().joined(*axes[:2])
    if together and sum(map(bool, labels)) == 1:
        figure.supylabel(next(filter(None, labels)), fontsize=COLUMN["axes.labelsize"])
        for a in axes:
            a.set_ylabel("")
    for above, below in pairwise(axes):
        if above.get_xlabel() == below.get_xlabel():
            above.set_xlabel("")
    titles = [t for a in axes for t in (a.title, a._left_title)]  # pyright: ignore[reportAttributeAccessIssue]
    labels = [t for a in axes for t in (a.xaxis.label, a.yaxis.label)]
    said = [figure._suptitle] if figure._suptitle else []  # pyright: ignore[reportAttributeAccessIssue]
    for text in (*titles, *said, *labels):
        size = min(float(text.get_fontsize()), COLUMN["axes.titlesize"])
        room = WIDTHS["column"] * (0.78 if text in titles or text in labels else 0.97)
        text.set_fontsize(size)
        whole = text.get_text()
        if whole and "$" not in whole:
            text.set_text(
                "\n".join(textwrap.wrap(" ".join(whole.split()), int(room * 72 / (LETTER * size))))
            )
    for text in (t for a in axes for t in a.texts):
        text.set_fontsize(min(float(text.get_fontsize()), COLUMN["legend.fontsize"]))
    for legend in (*figure.legends, *(a.get_legend() for a in axes)):
        for text in legend.get_texts() if legend else ():
            text.set_fontsize(COLUMN["legend.fontsize"])


def spent(rows: Any) -> Any:
    """FLOPs of each run as budgets count them, 6ND."""
    return FLOPS_PER_TOKEN * rows["N"].to_numpy(float) * rows["D"].to_numpy(float)


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
