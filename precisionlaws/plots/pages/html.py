"""Markup that cannot be forged: whatever is not `Html` is escaped when it enters a page.

Names of runs, columns and files come from tables that anyone may have written.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from precisionlaws.plots.style import count

VOID = ("meta", "br", "input", "col")
SPACE = "\u2009"  # thin
SPACES = f"\n\t\u00a0{SPACE}"


class Html(str):
    """Markup that is safe already."""

    __slots__ = ()


def safe(value: object) -> Html:
    """A value as markup: escaped unless it is `Html`; what no screen shows is spelled out."""
    if isinstance(value, Html):
        return value
    shown = "".join(c if c.isprintable() or c in SPACES else repr(c)[1:-1] for c in str(value))
    return Html(escape(shown, quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element; `class_` and `data_v` are written class and data-v, an attribute of None is left out."""
    said = "".join(
        f' {k.rstrip("_").replace("_", "-")}="{safe(v)}"' if v != "" else f" {k.rstrip('_')}"
        for k, v in attributes.items()
        if v is not None
    )
    if name in VOID:
        return Html(f"<{name}{said}>")
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(safe(p) for p in parts))


def items(lines: Sequence[object], class_: str | None = None) -> Html:
    """A bulleted list; nothing of nothing."""
    if not lines:
        return Html("")
    return tag("ul", *(tag("li", line) for line in lines), class_=class_)


def table(
    head: Sequence[object], rows: Sequence[Sequence[object]], *, caption: object = "", note: object = ""
) -> Html:  # fmt: skip
    """A table that can be sorted by its heads; cells are values, or (what is shown, what it is sorted by)."""
    cells = [[_cell(v) for v in row] for row in rows]
    right = ["n" if all(_numeric(row[i]) for row in rows) else None for i in range(len(head))]
    top = tag("tr", *(tag("th", tag("button", h, type="button"), scope="col", class_=c) for h, c in zip(head, right, strict=True)))  # fmt: skip
    body = (tag("tr", *row) for row in cells)
    parts = [tag("caption", caption)] if caption else []
    made = tag("table", *parts, tag("thead", top), tag("tbody", *body), class_="sorts")
    return join([tag("div", made, class_="wide"), tag("p", note, class_="note") if note else Html("")])  # fmt: skip


def _cell(value: Any) -> Html:
    shown, key = value if isinstance(value, tuple) else (value, value)
    if not _numeric(value):
        return tag("td", shown)
    if shown is key:
        shown = f"{key:,}" if isinstance(key, int) else number(float(key))
    return tag("td", shown, class_="n", data_v=f"{key:.17g}" if np.isfinite(key) else None)


def _numeric(value: Any) -> bool:
    key = value[1] if isinstance(value, tuple) else value
    return isinstance(key, int | float | np.number) and not isinstance(key, bool)


def number(value: float, digits: int = 3) -> str:
    """0.0123, 4.56, 1.2 × 10¹¹; – where unknown, ∞ where there is no end."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = int(np.floor(np.log10(abs(float(f"{value:.{digits - 1}e}")))))
    if -4 <= exponent < 6:
        return f"{value:.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")
    mantissa = f"{value / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
    return f"{mantissa.replace('-', '−')}{SPACE}×{SPACE}10{superscript(exponent)}"


def superscript(value: int) -> str:
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def amount(value: float) -> str:
    """Parameters, tokens: 6.66k, 500M; other than that as a number."""
    return count(value) if np.isfinite(value) and 1e3 <= value < 1e15 else number(value)


def between(low: float, high: float, form: Any = number) -> str:
    return f"{form(low)} to {form(high)}"


def interval(value: float, low: float, high: float, form: Any = number) -> tuple[str, float]:
    """A cell: the value with its interval, sorted by the value."""
    return f"{form(value)} ({form(low)} to {form(high)})", float(value)


def bits(value: float) -> str:
    """4, 4.54"""
    return f"{value:.3g}"


def counted(n: float, what: str) -> str:
    """1 run, 1,008 runs, 3 families"""
    if n != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") else f"{what}es" if what.endswith("s") else f"{what}s"  # fmt: skip
    return f"{n:,.0f} {what}"


def percent(value: float) -> str:
    """0.25%, 9.6%, 52%"""
    if value == 0 or abs(value) >= 0.0995:
        return f"{100 * value:.0f}%"
    return number(100 * value, 2) + "%" if abs(value) >= 5e-4 else "< 0.05%"


INDEX = re.compile(r"\^\(|\^|_")


def formula(text: str) -> Html:
    """`D^γ_D`, `e^(−P/γ)` as they are set: superscripts and subscripts, letters in italics."""
    match = INDEX.search(text)
    if match is None:
        return _letters(text)
    before, mark = text[: match.start()], match.group()
    kind = "sub" if mark == "_" else "sup"
    if mark == "^(":
        inner, after = _closed(text[match.end() :])
    else:
        whole = re.match(r"[−-]?[^\W_]+(?:_[^\W_]+)?" if kind == "sup" else r"[^\W_]+", text[match.end() :])  # fmt: skip
        cut = match.end() + (whole.end() if whole else 0)
        inner, after = text[match.end() : cut], text[cut:]
    return join([_letters(before), tag(kind, formula(inner)), formula(after)])


def _closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes, and after it."""
    depth = 1
    for i, c in enumerate(text):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0:
            return text[:i], text[i + 1 :]
    return text, ""


def _letters(text: str) -> Html:
    return join(tag("i", p) if i % 2 else p for i, p in enumerate(re.split(r"(?<![^\W\d_])([^\W\d_])(?![^\W\d_])", text)))  # fmt: skip
