"""The report in a real browser: silent console, two themes, sorting and filtering as a reader does it."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precisionlaws.fitting import Fit
from precisionlaws.plots.report import report
from tests.plots.test_report import HOSTILE, LAWS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")  # fmt: skip
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium and chromedriver here; on Debian: apt-get install chromium-driver"),
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1000,1200"):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(300)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def large(demo: Any) -> Any:
    """A thousand runs and their roundings: the study with more seeds, whose names want to be markup."""
    parts = [demo.assign(seed=demo["seed"] + 2 * k, run_id=demo["run_id"] + f"-{k}", loss=demo["loss"] + 1e-3 * k) for k in range(6)]  # fmt: skip
    frame: Any = pd.concat(parts, ignore_index=True)
    frame["family"] = frame["N"].astype(str) + "-s" + frame["seed"].astype(str)
    for k, name in enumerate(HOSTILE):
        frame.loc[k, "run_id"] = name
    frame.loc[7, "loss"] = np.nan
    return frame


@pytest.fixture(scope="module")
def opened(
    browser: Any,
    large: Any,
    fits: dict[str, Fit],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], Any]:
    """The page, freshly loaded."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(large, fits=[fits[n] for n in LAWS], title=HOSTILE[0]).save(path)

    def load() -> Any:
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        return browser

    return load


def find(page: Any, css: str) -> Any:
    return page.find_element("css selector", css)


def column(page: Any, name: str) -> list[str]:
    heads = [h.text.split(" ")[0] for h in page.find_elements("css selector", "#rows th")]
    cells = f"#rows tbody td:nth-child({heads.index(name) + 1})"
    return page.execute_script("return [...document.querySelectorAll(arguments[0])].map((c) => c.textContent)", cells)  # fmt: skip


def press(page: Any, name: str) -> str | None:
    """Click a head of the table of rows; the order that it then has."""
    head = next(h for h in page.find_elements("css selector", "#rows th") if h.text.split(" ")[0] == name)  # fmt: skip
    page.execute_script("arguments[0].querySelector('button').click()", head)
    return head.get_attribute("aria-sort")


def value(text: str) -> float:
    return float(text.replace("−", "-"))


def test_it_is_ready_without_a_word_or_a_request(opened: Callable[[], Any]) -> None:
    import json

    page = opened()
    assert page.execute_script("return document.documentElement.dataset.ready") == "yes"
    assert page.get_log("browser") == []
    asked = [json.loads(e["message"])["message"] for e in page.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"}  # fmt: skip
    assert all(u.startswith(("file:", "data:", "about:")) for u in urls)
    assert find(page, "h1").text == HOSTILE[0]
    assert page.execute_script("return document.querySelectorAll('main img, h1 *').length") == 0
    assert len(page.find_elements("css selector", "figure svg")) >= 10


def test_themes(opened: Callable[[], Any]) -> None:
    page = opened()
    ground = "return getComputedStyle(document.documentElement).backgroundColor"
    ink = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    seen = []
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
        seen.append((page.execute_script(ground), page.execute_script(ink)))
        other = find(page, "#theme")
        assert other.text == {"light": "dark", "dark": "light"}[scheme]
        other.click()
        assert page.execute_script(ground) != seen[-1][0]
        other.click()
        assert (page.execute_script(ground), page.execute_script(ink)) == seen[-1]
        page.execute_script("delete document.documentElement.dataset.theme")
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone_shows_no_page_wider_than_itself(opened: Callable[[], Any]) -> None:
    page = opened()
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_rows_are_sorted_both_ways_with_the_unknown_last(opened: Callable[[], Any], large: Any) -> None:  # fmt: skip
    page = opened()
    known = np.sort(large["loss"].dropna().to_numpy())
    assert press(page, "loss") == "ascending"
    assert [value(v) for v in column(page, "loss")] == pytest.approx(known[:50], rel=1e-5)
    assert press(page, "loss") == "descending"
    assert [value(v) for v in column(page, "loss")] == pytest.approx(known[::-1][:50], rel=1e-5)
    while find(page, "#on").is_enabled():
        page.execute_script("document.getElementById('on').click()")
    assert column(page, "loss")[-1] == "–"


def test_rows_are_filtered_by_comparisons_and_words(opened: Callable[[], Any], large: Any) -> None:  # fmt: skip
    page = opened()
    box = find(page, "#filter")
    for text, mask in (
        ("P_w<=4 loss<2.3", (large["P_w"] <= 4) & (large["loss"] < 2.3)),
        ("P_post=3 N>10000", (large["P_post"] == 3) & (large["N"] > 10000)),
        ("<script>", large["run_id"].str.contains("<script>")),
        ("nothing-is-called-so", large["N"] < 0),
    ):
        box.clear()
        box.send_keys(text)
        n = int(mask.sum())
        assert find(page, "#shown").text == f"{n:,} of {len(large):,}"
        assert len(column(page, "run_id")) == min(n, 50)
    box.clear()
    box.send_keys("P_w=3")
    press(page, "loss")
    best = large[large["P_w"] == 3]["loss"].min()
    assert value(column(page, "loss")[0]) == pytest.approx(best, rel=1e-5)
    assert page.get_log("browser") == []


def test_small_tables_are_sorted_too(opened: Callable[[], Any]) -> None:
    page = opened()
    script = """const t = document.querySelector('#bits table.sorts');
    const bits = () => [...t.tBodies[0].rows].map((r) => Number(r.cells[0].textContent));
    const before = bits(); const head = t.tHead.rows[0].cells[0].querySelector('button');
    head.click(); const up = bits(); head.click(); return [before, up, bits()];"""
    before, up, down = page.execute_script(script)
    assert sorted(before) == up == down[::-1]
    assert len(up) > 5


def test_a_thousand_runs_are_small(large: Any, fits: dict[str, Fit], opened: Callable[[], Any]) -> None:  # fmt: skip
    assert large["run_id"].nunique() >= 1000
    page = opened()
    assert page.execute_script("return document.documentElement.outerHTML.length") < 3e6
