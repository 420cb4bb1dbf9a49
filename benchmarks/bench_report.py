"""What a report costs: bytes, CPU seconds to make it, and in headless Chromium the CPU time until it can be used.

    python benchmarks/bench_report.py [RUNS ...]        by default 1000 10000

The runs are simulated (three sizes, four D, seven formats, as many seeds as it takes); the fits are made of the first
168 and handed over, so that what grows is the page. The limits: 3 MB and 2 s for 1,000 runs.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from precisionlaws.fitting import fit
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law
from precisionlaws.plots.report import report

TRUE = {
    "A": 6.53, "alpha": 0.278, "B": 17.3, "beta": 0.188, "E": 0.0, "eff_w[3]": 0.55, "eff_w[4]": 0.87, "eff_w[6]": 0.98,
    "eff_a[4]": 0.75, "eff_a[6]": 0.97, "eff_kv[4]": 0.92, "C_T": 0.018, "gamma_D": 0.69, "gamma_N": 0.25, "gamma_post": 0.63,
}  # fmt: skip
WIDTHS = [{"P_w": 3}, {"P_w": 4}, {"P_w": 6}, {"P_a": 4}, {"P_a": 6}, {"P_kv": 4}]
CELLS = 84  # runs of one seed


def study(runs: int) -> Any:
    seeds = -(-runs // CELLS)
    design = crossed((6656, 20480, 50000), (62e3, 125e3, 250e3, 500e3), WIDTHS, seeds=seeds, post=(3, 4, 5, 6, 8))  # fmt: skip
    noise: Any = {"family_sd": 0.012, "branch_sd": 0.02, "run_sd": 0.008, "delta_sd": (3e-4, 0.15)}
    return simulate(law("neff_free+ptq_kumar"), TRUE, design, **noise, seed=1)


def opened(path: Path) -> dict[str, float]:
    """CPU seconds of the page's process when its script is done, and the wall seconds that this took."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(shutil.which("chromedriver"))))  # fmt: skip
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get(path.as_uri())
        ready = driver.execute_script("return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")  # fmt: skip
        metrics: Any = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        spent = {m["name"]: m["value"] for m in metrics}
        return {"cpu": spent["TaskDuration"], "wall": ready / 1000}
    finally:
        driver.quit()


def main() -> None:
    counts = [int(a) for a in sys.argv[1:]] or [1000, 10000]
    first = study(168)
    fits = [fit(first, name, resamples=1000) for name in ("neff_free", "neff_kumar", "ptq_kumar")]
    print(
        f"{'runs':>6} {'rows':>7} {'MB':>6} {'CPU s to make':>14} {'CPU s to use':>13} {'wall':>6}"
    )
    for runs in counts:
        frame = study(runs)
        start = time.process_time()
        page = report(frame, fits=fits)
        made = time.process_time() - start
        with tempfile.TemporaryDirectory() as folder:
            path = page.save(Path(folder) / "report.html")
            use = opened(path) if shutil.which("chromedriver") else {"cpu": float("nan"), "wall": float("nan")}  # fmt: skip
            size = path.stat().st_size / 1e6
        n = frame["run_id"].nunique()
        print(f"{n:>6} {len(frame):>7} {size:>6.2f} {made:>14.1f} {use['cpu']:>13.2f} {use['wall']:>6.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
