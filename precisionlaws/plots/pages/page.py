"""The page around the sections: one file, with nothing to load and no script but its own."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precisionlaws.plots.pages.html import Html, tag

HERE = Path(__file__).resolve().parent


def page(title: str, lede: str, sections: Sequence[tuple[str, str, Html]], rows: dict[str, Any]) -> str:  # fmt: skip
    """The whole document."""
    style, script = ((HERE / f"page.{kind}").read_text() for kind in ("css", "js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # A browser refuses every other script, also one that slipped in with data, and every connection.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"  # fmt: skip
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    ]
    links = [tag("a", name, href=f"#{id_}") for id_, name, _ in sections]
    top = [tag("h1", title), tag("p", lede, class_="lede"), tag("nav", *links, tag("button", "dark", type="button", id="theme"))]  # fmt: skip
    parts = [tag("section", tag("h2", name), body, id=id_) for id_, name, body in sections]
    data = Html(f'<script type="application/json" id="data">{inert(rows)}</script>')
    body = [tag("header", *top), tag("main", *parts), data, Html(f"<script>{script}</script>")]
    return f'<!doctype html>\n<html lang="en">{tag("head", *head)}{tag("body", *body)}</html>\n'


def inert(value: Any) -> str:
    """JSON that cannot end the element it stands in, or be read as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for c in "<>&\u2028\u2029":
        text = text.replace(c, f"\\u{ord(c):04x}")
    return text
