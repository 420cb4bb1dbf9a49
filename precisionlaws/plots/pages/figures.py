"""A figure as SVG that stands in the page: its colours are those of the page, its text is text, and it is small."""

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.plots.pages.html import Html, safe
from precisionlaws.plots.style import COLORS, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 4000  # points of a panel: more are drawn as an image, which does not grow with them
LINES = 40  # of a panel, likewise
FEW = 20  # points of a line that is drawn as a line all the same
DPI = 170
PIXELS = 105  # of the page to an inch of a figure
INK = {
    "#000000": "--ink", "#ffffff": "--paper", "#444444": "--ink", "#555555": "--soft", GREY: "--soft", "#999999": "--soft",
    "#bbbbbb": "--rule", "#e6e6e6": "--grid", "#f2e6b8": "--shade",
} | {c.lower(): f"--c{i}" for i, c in enumerate(COLORS[:-1])}  # fmt: skip
COLOR = re.compile(r"#[0-9a-f]{6}\b", re.IGNORECASE)
GEOMETRY = re.compile(r' (?:d|x|y|width|height|transform|points|viewBox)="[^"]*"')
LONG = re.compile(r"-?\d+\.\d{3,}")
IDS = re.compile(r' id="([^"]*)"')
FONT = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")


def inline(figure: "Figure", name: str, title: str) -> Html:
    """SVG markup without an XML head. name: makes ids unique in a page; title: what a screen reader says."""
    from matplotlib import rc_context

    lighten(figure)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing, dpi=DPI)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'#([^"\)]+)[")]', svg))
    svg = IDS.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    svg = COLOR.sub(lambda m: f"var({INK[m[0].lower()]})" if m[0].lower() in INK else m[0], svg)
    svg = GEOMETRY.sub(lambda m: LONG.sub(lambda n: f"{float(n[0]):.2f}", m[0]), svg)
    svg = FONT.sub("var(--sans)", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", svg)
    size = f"max-width:{PIXELS * figure.get_figwidth():.0f}px"  # type as large in every figure
    head = f'<svg role="img" style="{size}" aria-label="{safe(title)}"'
    return Html(re.sub(r">\s+<", "><", svg.replace("<svg", head, 1)).strip())


def lighten(figure: "Figure") -> None:
    """Draw what has too many points as an image."""
    for axes in figure.axes:
        points = {a: _points(a) for a in axes.get_children()}
        crowded = sum(points.values()) > MANY or len(axes.lines) > LINES
        for artist, n in points.items():
            if crowded and n > FEW:
                artist.set_rasterized(True)


def _points(artist: Any) -> int:
    """Marks of a scatter or a line."""
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    if isinstance(artist, Line2D):
        return len(np.ravel(artist.get_xdata()))
    return len(np.reshape(artist.get_offsets(), (-1, 2))) if isinstance(artist, PathCollection) else 0  # fmt: skip
