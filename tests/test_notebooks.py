"""The examples run as they are shown, and say what they promise."""

import os
import re
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import precisionlaws as pl
from precisionlaws.run import compose
from precisionlaws.training.train import train
from tests.planning.conftest import demo

__all__ = ["demo"]

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def execute(name: str, cwd: Path, **variables: str) -> str:
    command = [sys.executable, "-W", "error", str(NOTEBOOKS / f"{name}.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_your_own_loop(tmp_path: Path) -> None:
    store = tmp_path / "store"
    out = execute("your_own_loop", tmp_path, PRECISIONLAWS_STORE=str(store))
    frame = pl.load(store)
    assert len(frame) == 8
    assert (frame.loss < 0.66).all()  # all learned: a coin has .69, the labels themselves .33
    assert (frame[frame.P_w == 16].loss > 0.33).all()
    assert "2304" in out
    stamps = {p: p.stat().st_mtime_ns for p in store.rglob("result.json")}
    assert execute("your_own_loop", tmp_path, PRECISIONLAWS_STORE=str(store)) == out
    assert {p: p.stat().st_mtime_ns for p in store.rglob("result.json")} == stamps


@pytest.mark.slow
def test_anyones_csv(tmp_path: Path) -> None:
    out = execute("anyones_csv", tmp_path)
    found = re.search(r"at 4 bits: ([\d.]+), 95% interval ([\d.]+) to ([\d.]+)", out)
    assert found
    eff, low, high = map(float, found.groups())
    assert low <= 0.80 <= high
    assert eff == pytest.approx(0.80, abs=0.08)
    assert "at a minimum" in out
    assert "NOT at a minimum" not in out


def test_the_paper_is_rederived(tmp_path: Path) -> None:
    out = execute("rederived", tmp_path)
    for said in (
        "with offsets 7.0021 bits, as printed in the main text 3.4688 bits", "within 5% of the best: 5.9 to 8.6 bits",
        "'a': '3.11 bits'", "'220M at 3 bits': '32.4G tokens'", "'BF16': '1730T tokens', 'E4M3': '27.33T tokens', 'E2M1': '0.3928T tokens'",
        "P* = 4 of the widths",
    ):  # fmt: skip
        assert said in out
    by_compute = {f[0]: f[1:] for line in out.splitlines() if len(f := line.split()) == 4 and f[0].startswith("1e+")}  # fmt: skip
    assert by_compute["1e+18"] == ["7.002", "6.532", "3.508"]
    assert by_compute["1e+19"][1] == "8.842"
    assert by_compute["1e+31"] == ["7.002", "16", "7.578"]


@pytest.mark.slow
def test_which_law_at_ten_times(tmp_path: Path) -> None:
    out = execute("which_law", tmp_path, PRECISIONLAWS_STORE=str(tmp_path / "none"))
    best = next(line for line in out.splitlines() if "predicts larger runs best" in line)
    assert "neff_" in best
    assert "how much worse chinchilla+deff_free and gamma+deff_free predict" in out
    assert out.count("at every budget") == 6  # laws that multiply, the published ones too
    assert "Sun et al. 2025 (published constants): grows" in out


@pytest.mark.slow
def test_quickstart(tmp_path: Path, demo: pd.DataFrame) -> None:
    demo.to_parquet(tmp_path / "runs.parquet")
    out = execute("first_law", tmp_path, PRECISIONLAWS_STORE=str(tmp_path / "runs.parquet"))
    found = re.search(r"gamma_D = ([\d.]+), 95% interval ([\d.]+) to ([\d.]+)", out)
    assert found
    assert float(found[2]) <= 0.69 <= float(found[3])
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_lr_transfer_finds_the_best_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parabolas in log lr whose vertex is known: 0.02 everywhere under mup, 0.64 / width under standard."""
    rows = []
    for name, width, depth in [("standard", w, 2) for w in (16, 32, 64)] + [("mup", 16, 2), ("mup", 64, 2), ("completep", 64, 3)]:  # fmt: skip
        vertex = 0.64 / width if name == "standard" else 0.02
        for lr in (0.005, 0.01, 0.02, 0.04, 0.08):
            loss = 2 + 0.1 * np.log2(lr / vertex) ** 2
            rows.append({"parametrization": name, "size.width": width, "size.depth": depth, "optim.lr": lr,
                         "loss": loss, "eval_id": "final", "status": "finished", "run_id": f"{name}{width}{depth}{lr}",
                         "N": 1e4, "D": 1e6})  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "frame.parquet")
    monkeypatch.setenv("PRECISIONLAWS_STORE", str(tmp_path / "frame.parquet"))
    found = runpy.run_path(str(NOTEBOOKS / "lr_transfer.py"))
    assert "standard x = -1.00" in capsys.readouterr().out
    assert found["exponents"] == pytest.approx({"standard": -1, "mup": 0, "completep": 0}, abs=1e-9)
    best = found["table"]["best lr"].astype(float)
    assert np.allclose(best["mup"], 0.02)
    assert best["completep", 64, 3] == pytest.approx(0.02)
    assert found["table"]["costs, nats"].astype(float)["standard", 64, 2] == pytest.approx(0.1)


def test_architectures_are_fitted_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two objectives, two optimizers, each with an efficiency of its own."""
    rows, rng = [], np.random.default_rng(0)
    worth = {("llama", "adamw"): 0.8, ("llama", "adopt"): 0.7, ("hydra_ssm", "adamw"): 0.4}
    for (arch, optim), eff in worth.items():
        for N, seed, D, P in product((1e4, 4e4, 1.6e5), (0, 1), (1e6, 4e6, 1.6e7), (4.0, 16.0)):
            kept = eff if P == 4 else 1.0
            loss = 1.5 + 30 / (kept * N) ** 0.35 + 50 / D**0.3 + 1e-4 * rng.standard_normal()
            rows.append({"arch": arch, "optim": optim, "objective": "masked" if arch == "hydra_ssm" else "causal",
                         "family": f"{arch}-{N}-{seed}", "N": N, "D": D, "P_w": P, "loss": loss, "seed": seed,
                         "eval_id": "final", "status": "finished", "run_id": f"{arch}{optim}{N}{D}{P}{seed}"})  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "frame.parquet")
    monkeypatch.setenv("PRECISIONLAWS_STORE", str(tmp_path / "frame.parquet"))
    monkeypatch.setenv("RESAMPLES", "100")
    found = runpy.run_path(str(NOTEBOOKS / "architectures.py"))
    out = capsys.readouterr().out
    assert "hydra_ssm adamw (masked)" in out
    assert "Δ(4), nats" in out
    for (arch, optim), eff in worth.items():
        fit = next(f for name, f in found["fitted"].items() if name.startswith(f"{arch} {optim}"))
        assert fit.quantity("eff_w(4)")[0] == pytest.approx(eff, abs=0.03)
    assert len(found["ratios"]) == 3


def test_outliers_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(compose(["size=7k", "tokens=4096", "data.eval_tokens=2048", "data.context=64"]), tmp_path)
    monkeypatch.setenv("PRECISIONLAWS_STORE", str(tmp_path))
    found = runpy.run_path(str(NOTEBOOKS / "outliers.py"))
    table = found["table"]
    assert list(table.index.get_level_values("what")) == ["K, V", "activations", "weights"]
    weights = table.loc["weights"].iloc[0]  # as they were drawn, but for four steps: normal
    assert weights["max/σ"] == pytest.approx(weights["max/σ normal"], rel=0.03)
    assert weights["kurtosis"] == pytest.approx(weights["normal"], rel=0.03)
    spike = found["shape"](torch.eye(64))
    assert spike["max/σ"] == pytest.approx(8)  # √64: all of σ is one value
    assert spike["kurtosis"] == pytest.approx(64)
    assert spike["max/σ rotated"] == pytest.approx(1)  # ±1/8 everywhere
    assert spike["max/σ of 16"] == pytest.approx(4)
