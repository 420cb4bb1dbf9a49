"""The report: one inert file that says what the fits and plans say, and says what it cannot."""

import html
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.cli import main
from precisionlaws.fitting import Fit
from precisionlaws.planning import plan
from precisionlaws.plots import kinds, reads_store
from precisionlaws.plots.pages.html import Html, bits, formula, number, percent, safe, tag
from precisionlaws.plots.report import Report, report
from precisionlaws.plots.style import COLORS

LAWS = ("neff_free", "neff_kumar", "ptq_kumar")
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><b>$x^2$ & \u202e\x00'", "=1+1")  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and the text of a page; raises where elements do not nest."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.setdefault(self.open[-1] if self.open else "", []).append(data)

    @property
    def text(self) -> str:
        return " ".join(d for k, v in self.said.items() if k not in ("script", "style") for d in v)


@pytest.fixture(scope="module")
def whole(demo: pd.DataFrame, fits: dict[str, Fit]) -> Report:
    return report(demo, fits=[fits[n] for n in LAWS], title="A study")


@pytest.fixture(scope="module")
def page(whole: Report) -> Page:
    return Page(whole.html)


def rows(text: str) -> dict[str, list[Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    value = json.loads(found[1])
    return dict(zip(value["columns"], value["rows"], strict=True))


def test_one_file_that_loads_nothing(page: Page) -> None:
    for name, attributes in page.tags:
        for key in ("src", "href", "xlink:href", "action", "data"):
            target = attributes.get(key)
            assert target is None or target.startswith(("#", "data:image/png;base64,")), (name, target)  # fmt: skip
        assert not any(k.startswith("on") for k in attributes)
        assert name not in ("link", "iframe", "object", "embed", "base", "form")
    policy = next(a["content"] for n, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
    assert policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_ids_are_unique_and_every_reference_has_one(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {str(a[k])[1:] for _, a in page.tags for k in ("href", "xlink:href") if str(a.get(k)).startswith("#")}  # fmt: skip
    wanted |= {r for _, a in page.tags for v in a.values() for r in re.findall(r"url\(#([^)]*)\)", v or "")}  # fmt: skip
    assert wanted <= set(ids)
    assert {"answer", "bits", "rounding", "size", "next", "evidence", "doubt", "method", "runs", "provenance"} <= set(ids)  # fmt: skip


def test_every_figure_is_there_in_the_colours_of_the_page(page: Page, whole: Report) -> None:
    drawn = {str(a["id"])[7:] for n, a in page.tags if n == "figure"}
    assert drawn == {k for k in kinds() if not reads_store(k)}  # a frame has no curves
    assert not [c for c in COLORS[:-1] if c.lower() in whole.html.partition("</style>")[2].lower()]
    assert "training precision P" in page.text  # labels are text


def test_the_answer_is_that_of_the_plans(whole: Report, fits: dict[str, Fit]) -> None:
    said = html.unescape(re.sub("<[^>]*>", "", whole.html.partition('<section id="answer">')[2].partition("</section>")[0]))  # fmt: skip
    free, ptq = fits["neff_free"], fits["ptq_kumar"]
    runs: Any = free.rows
    largest = float((6 * runs["N"] * runs["D"]).max())
    one = plan(free, flops=10 * largest)
    table: Any = one.regret
    gain = float(table["gain"].max())
    low, high = one.interval("P")
    for text in (
        f"at {bits(one.P)} bits", f"buys {number(gain)} times", f"between {bits(low)} and {bits(high)} bits",
        f"expect {number(one.loss)} nats", number(ptq.params["gamma_D"], 2), f"For {number(10 * largest, 2)} FLOP",
    ):  # fmt: skip
        assert text in said
    assert said.count("95%") >= 4


def test_doubts_warnings_and_sources_are_said(page: Page, fits: dict[str, Fit]) -> None:
    for name in LAWS:
        for warning in fits[name].warnings:
            assert warning in page.text
        assert fits[name].sha256 in page.text
    assert "arXiv 2411.04330" in page.text
    assert "120 rows: P_post < 16: the law has no PTQ term" in page.text
    assert "Kumar et al. 2024, published" in page.text
    assert "extrapolation" in page.text


def test_the_table_holds_every_row(whole: Report, demo: pd.DataFrame, fits: dict[str, Fit]) -> None:  # fmt: skip
    table = rows(whole.html)
    assert table["run_id"] == demo["run_id"].tolist()
    assert table["loss"] == pytest.approx(demo["loss"].to_numpy(), rel=1e-5)
    free = fits["neff_free"]
    first: Any = free.rows.iloc[0]
    fitted = float(free.law.loss(free.params, free.rows.iloc[:1])[0])
    k = table["run_id"].index(first["run_id"])
    assert table["residual_%"][k] == pytest.approx(100 * (first["loss"] / fitted - 1), rel=1e-4)


@pytest.fixture(scope="module")
def hostile(demo: pd.DataFrame) -> pd.DataFrame:
    """Names that want to be markup, losses that are missing, in rows of 16 bits."""
    frame: Any = demo[(demo[["P_w", "P_a", "P_kv", "P_post"]] == 16).all(axis=1)].reset_index(drop=True)  # fmt: skip
    frame["run_id"] = [f"{HOSTILE[i % 4]}{i}" for i in range(len(frame))]
    frame["family"] = [HOSTILE[int(s)] + str(N) for s, N in zip(frame["seed"], frame["N"], strict=True)]  # fmt: skip
    frame["exec.chip"] = HOSTILE[0]
    frame[HOSTILE[1]] = 1
    frame.loc[3, "loss"] = np.nan
    return frame


def test_names_from_a_table_stay_text(hostile: pd.DataFrame, tmp_path: Path) -> None:
    hostile.to_parquet(tmp_path / "<b>runs.parquet")
    made = report(tmp_path / "<b>runs.parquet", title=HOSTILE[1])
    page = Page(made.html)
    assert rows(made.html)["run_id"] == hostile["run_id"].tolist()
    assert rows(made.html)["loss"][3] is None
    assert [n for n, _ in page.tags].count("script") == 2
    assert not [n for n, _ in page.tags if n == "img"]
    assert not any(a.get("onerror") for _, a in page.tags)
    assert HOSTILE[0] in page.text
    assert HOSTILE[1] in page.said["h1"]
    assert "rows without N, D or loss: 1" in page.text
    assert made.fits


@pytest.mark.slow
def test_same_input_same_bytes(whole: Report, demo: pd.DataFrame, fits: dict[str, Fit]) -> None:
    assert report(demo, fits=[fits[n] for n in LAWS], title="A study").html == whole.html


def test_one_run_is_shown_and_nothing_is_claimed(demo: pd.DataFrame) -> None:
    made = report(demo.iloc[:1])
    assert not made.certified
    assert made.fits == ()
    assert "there is no answer yet" in made.html
    assert any("fit of chinchilla" in why for why in made.unsaid)
    assert len(rows(made.html)["run_id"]) == 1


def test_runs_that_follow_no_one_law_are_not_taken_for_16_bits(demo: Any) -> None:
    grain = np.where(np.arange(len(demo)) % 2, "row", "group")
    made = report(demo.assign(**{"quant.weights.granularity": grain}), laws=["neff_free"])
    assert "No law could be fitted" in made.html
    assert any("--where" in why for why in made.unsaid)
    plain = demo.assign(**{"quant.weights.granularity": grain})
    made = report(plain[plain["D"] < 3e5], laws=["neff_free", "chinchilla"])
    assert "could not be fitted together" in made.html
    assert "nothing is learnt here" not in made.html


def test_of_several_ptq_methods_one_is_shown(demo: pd.DataFrame) -> None:
    after = demo["P_post"] < 16
    rtn: Any = demo.assign(ptq=["rtn" if rounded else None for rounded in after])
    other = rtn[after].assign(ptq="gptq", delta_ptq=lambda f: 0.5 * f["delta_ptq"])
    both = pd.concat([rtn, other], ignore_index=True)
    (alone, _), (mixed, said) = (
        ([f for f in r.fits if f.law.paired], r.unsaid)
        for r in (report(f, laws=("ptq_kumar",)) for f in (rtn, both))
    )
    assert mixed[0].params == alone[0].params
    assert any("δ of gptq" in line and "--by-method" in line for line in said)


def test_rows_without_any_loss(demo: pd.DataFrame) -> None:
    made = report(demo.assign(loss=np.nan).iloc[:5])
    assert made.fits == ()
    assert rows(made.html)["loss"] == [None] * 5


def test_a_stored_fit_of_other_rows_is_said(demo: pd.DataFrame, fits: dict[str, Fit]) -> None:
    made = report(demo.iloc[:5], fits=[fits["chinchilla"]])
    assert any("of other rows than these: fit again" in why for why in made.unsaid)


def test_nothing_left_is_an_error(demo: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row of the frame is left to report where P_w > 99"):
        report(demo, where="P_w > 99")
    with pytest.raises(ValueError, match="is empty|no row"):
        report(demo.iloc[:0])
    (tmp_path / "store" / "runs").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no finished run"):
        report(tmp_path / "store")


def test_the_command(
    demo: pd.DataFrame, fits: dict[str, Fit], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "chinchilla.json").write_text(fits["chinchilla"].to_json())
    out = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["precisionlaws", "report", str(store), "--fits", str(tmp_path / "fits"), "-o", str(out)])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert 'id="figure-curves"' in out.read_text()
    for arguments, message in (
        (["nowhere"], "'nowhere' does not exist"),
        ([str(store), "--fits", str(tmp_path / "none")], "holds no fits"),
        ([str(store), "--law", "nonsense"], "nonsense"),
        ([str(store), "--cost", "gold"], "cost must be one of"),
        ([str(store), "--flops", "-1"], "flops must be positive and finite, got -1"),
    ):
        monkeypatch.setattr(sys, "argv", ["precisionlaws", "report", *arguments, "-o", str(tmp_path / "x.html")])  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("text", [*HOSTILE[:2], "a < b & c > d", "ä 中 ★", "'\""])
def test_whatever_is_shown_is_what_was_given(text: str) -> None:
    assert html.unescape(safe(text)) == text
    assert html.unescape(tag("p", text, title=text)) == f'<p title="{text}">{text}</p>'
    assert safe(Html("<b>")) == "<b>"
    assert safe("\x00\u202e") == "\\x00\\u202e"


def test_numbers_as_they_are_read() -> None:
    shown = {0.0: "0", 1.0: "1.00", 0.0123: "0.0123", -2.5: "−2.50", 999.9: "1000", 1.23e11: "1.23\u2009×\u200910¹¹", np.inf: "∞"}  # fmt: skip
    assert {v: number(v) for v in shown} == shown
    assert number(float("nan")) == "–"
    assert [percent(v) for v in (0, 1e-5, 0.0025, 0.5, 1)] == ["0%", "< 0.05%", "0.25%", "50%", "100%"]  # fmt: skip


def test_formulas_are_set() -> None:
    assert formula("A N^-α") == "<i>A</i> <i>N</i><sup>-<i>α</i></sup>"
    assert formula("e^(−P_x/γ_x)") == "<i>e</i><sup>−<i>P</i><sub><i>x</i></sub>/<i>γ</i><sub><i>x</i></sub></sup>"  # fmt: skip
    assert formula("N_eff · D^γ_D") == "<i>N</i><sub>eff</sub> · <i>D</i><sup><i>γ</i><sub><i>D</i></sub></sup>"  # fmt: skip
