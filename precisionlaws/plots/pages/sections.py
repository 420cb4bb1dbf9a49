"""The sections of the report, top to bottom."""

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from precisionlaws.costs import duration
from precisionlaws.fitting import Fit
from precisionlaws.fitting.compare import verdict
from precisionlaws.fitting.order import order
from precisionlaws.planning.beliefs import sentences
from precisionlaws.planning.costs import cost as cost_model
from precisionlaws.plots import kinds, plot, reads_store
from precisionlaws.plots.fit import NAMES
from precisionlaws.plots.pages import tables
from precisionlaws.plots.pages.answer import answer
from precisionlaws.plots.pages.figures import inline
from precisionlaws.plots.pages.findings import Findings, counts
from precisionlaws.plots.pages.html import Html, counted, formula, items, join, tag

PLACE = {  # of each figure; one that is not named stands with the evidence
    "bits": ("optimal-bits", "effective", "beliefs"), "rounding": ("ptq", "pareto", "model-bits"), "size": ("loss", "isoflop"), "next": ("next-runs",),
    "evidence": ("fit", "residuals", "out-of-sample", "profiles", "curves"),
}  # fmt: skip
EVERY = ("pareto",)  # figures of all fits together
FIRST = ("next-runs",)  # of the first alone: of two they would be about which law is right


def sections(found: Findings, questions: Sequence[str]) -> Iterator[tuple[str, str, Html]]:
    """(id, title, body) of each section that has something to say."""
    missing: list[str] = []
    parts: list[tuple[str, str, Callable[[], list[Html]]]] = [
        ("bits", "Bits in training", lambda: _bits(found)),
        ("rounding", "Bits after training", lambda: _rounding(found)),
        ("size", "Parameters and tokens", lambda: _size(found)),
        ("next", "What to train next", lambda: _next(found)),
        ("evidence", "Is the fit to be trusted?", lambda: _evidence(found)),
    ]
    yield "answer", "Answer", _answer(found, questions)
    for id_, title, make in parts:
        body = [*_figures(found, id_, missing), *make()]
        if body:
            yield id_, title, join(body)
    yield "doubt", "What the data do not tell", _doubt(found, missing)
    if found.fits:
        yield "method", "Method", _method(found)
    yield "runs", "Every row", _runs(found)


def _answer(found: Findings, questions: Sequence[str]) -> Html:
    asked = items(questions, "asked") if questions else Html("")
    return join([asked, *(tag("p", s) for s in answer(found))])


def _bits(found: Findings) -> list[Html]:
    plan = found.form_free
    if plan is None:
        return []
    lead = next((f for f in found.fits if f.law.full_name == plan.law and f.law.on("N")), None)
    out = [items([_spelled(s) for s in order(lead)])] if lead else []
    out.append(tables.regret(plan))
    if found.widths is not None and len(found.widths):
        out += [tag("h3", "Is the best width a matter of the law?"), items(sentences(found.widths)), tables.beliefs(found)]  # fmt: skip
    return out


def _spelled(sentence: str) -> str:
    """w, a and kv in words."""
    words = re.sub(r"\b(w|a|kv)\b", lambda m: NAMES[m[1]], sentence)
    return re.sub(r"(weights|activations) costs", r"\1 cost", words)


def _rounding(found: Findings) -> list[Html]:
    one = found.rounded
    plan = found.plan_of(one) if one else None
    return [tables.critical(plan)] if plan is not None and len(plan.critical) else []


def _size(found: Findings) -> list[Html]:
    wide = [p for p in found.plans if len(p.tradeoff) > 1]
    parts = [tables.budgets(found)] if found.plans else []
    return [*parts, *(tables.tradeoff(p) for p in wide[:1])]


def _next(found: Findings) -> list[Html]:
    return [] if found.next is None else [tables.following(found)]


def _evidence(found: Findings) -> list[Html]:
    out: list[Html] = []
    for f in found.fits:
        out.append(tables.coefficients(f))
    if found.laws is not None:
        out += [tables.out_of_sample(found), items(verdict(found.laws))]
    return out


def _doubt(found: Findings, missing: Sequence[str]) -> Html:
    parts = []
    for f in found.fits:
        plan = found.plan_of(f)
        lines = list(dict.fromkeys([*f.warnings, *(plan.warnings if plan else ())]))
        if lines:
            parts += [tag("h3", f.law.full_name), items(lines)]
    left = [f"{n} rows: {why}" for f in found.fits[:1] for why, n in f.left_out]
    for title, lines in (("Left out of the fit", left), ("Not computed", found.unsaid), ("Not drawn", missing)):  # fmt: skip
        parts += [tag("h3", title), items(lines)] if lines else []
    if not parts:
        parts = [tag("p", "Nothing was left out, and the fits raise no doubt of their own.")]
    return join(parts)


def _method(found: Findings) -> Html:
    shown = dict.fromkeys(m for f in found.fits for m in (f.law.base, *f.law.terms))
    parts = [_law(m) for m in shown]
    for f in found.fits:
        for o in (f.objective, f.penalty_objective):
            if o is not None:
                parts.append(tag("p", tag("b", f.law.full_name), f": minimised {o.text}, n = {o.n}."))  # fmt: skip
    for p in found.plans[:1]:
        model = cost_model(p.cost)
        parts.append(tag("p", tag("b", f"Cost “{p.cost}”"), f": {model.says} ({model.source})."))
        parts.append(tag("p", "Where bits only multiply N and D, the best width is the maximum of eff(P)/c(P) for any budget and base; intervals push the joint draws of the parameters through the plan."))  # fmt: skip
    return join(parts)


def _law(module: Any) -> Html:
    """The docstring of a base or term: its first paragraph is the formula and its source."""
    first, *rest = (module.__doc__ or "").strip().split("\n\n")
    head, source = _equation(" ".join(first.split()))
    return tag(
        "div", tag("p", formula(head), class_="equation"), tag("p", source, class_="note") if source else "",
        *(tag("p", " ".join(r.split())) for r in rest), class_="law",
    )  # fmt: skip


def _equation(text: str) -> tuple[str, str]:
    """The formula, and what follows it."""
    ends = [i for mark in (", x in ", ": ", ", nats ", " (") if (i := text.find(mark)) > 0]
    papers = [i for i in ends if not text[i:].startswith(" (") or "20" in text[i : i + 60]]
    cut = min(papers, default=len(text))
    return text[:cut], text[cut:].lstrip(",: ").strip()


def _runs(found: Findings) -> Html:
    """The frame of the table; the script fills it."""
    n = counts(found.frame)
    said = f"{counted(n['points'], 'row')} of {counted(n['runs'], 'run')}."
    keep = "P_w<=4 loss<3"
    box = tag("input", type="search", id="filter", placeholder=f"filter: words, or {keep}", aria_label="filter rows", autocomplete="off", spellcheck="false")  # fmt: skip
    bar = tag("div", box, tag("button", "save as CSV", type="button", id="save"), tag("span", "", id="shown", role="status"), class_="bar")  # fmt: skip
    pages = tag("div", tag("button", "previous", type="button", id="back"), tag("span", "", id="page"), tag("button", "next", type="button", id="on"), class_="bar")  # fmt: skip
    frame = tag("div", tag("table", tag("thead", ""), tag("tbody", ""), id="rows"), class_="wide")
    none = tag("noscript", tag("p", "This table needs the script of the page; nothing is loaded from anywhere."))  # fmt: skip
    return join([tag("p", said), none, bar, frame, pages])


def provenance(found: Findings, source: str, command: str) -> Html:
    """Where the numbers are from, and how to have them again."""
    n = counts(found.frame)
    facts: list[tuple[str, object]] = [("data", source)]
    names = {"runs": "run", "points": "row", "families": "family", "seed": "seed"}
    facts.append(("runs", ", ".join(counted(n[k], what) for k, what in names.items() if k in n)))
    if "seconds" in n:
        facts.append(("trained in", f"{duration(n['seconds'])} of machine time, all runs together"))
    for f in found.fits:
        facts.append((f"rows of {f.law.full_name}", tag("code", f"sha256 {f.sha256}")))
    if found.fits:
        facts.append(("software", ", ".join(f"{k} {v}" for k, v in found.fits[0].versions.items())))
        facts.append(("seed of starts and draws", str(found.fits[0].seed)))
    frame: Any = found.frame
    for column in (c for c in map(str, frame.columns) if c.startswith(("exec.", "code.", "data.fingerprint"))):  # fmt: skip
        values = sorted({str(v) for v in frame[column].dropna().unique()})
        if 0 < len(values) <= 4:
            facts.append((column, ", ".join(values)))
    facts.append(("made by", tag("code", command)))
    rows = (tag("tr", tag("th", k, scope="row"), tag("td", v)) for k, v in facts)
    return tag("div", tag("table", *rows), class_="wide facts")


def _figures(found: Findings, place: str, missing: list[str]) -> Iterator[Html]:
    named = {k for names in PLACE.values() for k in names}
    wanted = [k for k in PLACE[place] if k in kinds()]
    wanted += [k for k in kinds() if k not in named] if place == "evidence" else []
    for kind in wanted:
        if reads_store(kind) and found.store is None:
            continue
        if not reads_store(kind) and not found.fits:
            continue
        drawn = _drawn(found, kind)
        if isinstance(drawn, str):
            missing.append(f"{kind}: {drawn}")
            continue
        module = importlib.import_module(f"precisionlaws.plots.{kind.replace('-', '_')}")
        title = " ".join((module.__doc__ or kind).split("\n\n")[0].split())
        how = " ".join((module.figure.__doc__ or "").split())
        caption = tag("figcaption", tag("b", title), f" {how} ", tag("code", f"precisionlaws plot {kind}"))  # fmt: skip
        yield tag("figure", inline(drawn, kind, title), caption, id=f"figure-{kind}")


def _drawn(found: Findings, kind: str) -> Any:
    """The figure of as many fits as it takes, or why there is none."""
    if reads_store(kind):
        choices: list[Any] = [found.store]
    else:
        plain = tuple(f for f in found.fits if not f.law.paired)
        sets: list[Sequence[Fit]] = [found.fits] if kind in EVERY else [plain] if kind not in FIRST else []  # fmt: skip
        choices = [s for s in (*sets, *([f] for f in found.fits)) if s]
    why = "no fit to draw"
    for data in choices:
        try:
            return plot(kind, data)
        except ValueError as error:
            why = str(error)
    return why


__all__ = ["provenance", "sections"]
