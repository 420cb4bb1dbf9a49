"""fit, plan and plot as a user runs them: from a CSV to a figure, exit codes included."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from precisionlaws.cli import main
from precisionlaws.fitting import Fit

TRUTH = {"A": 12.0, "alpha": 0.4, "B": 9.0, "beta": 0.15, "E": 0.6}
EFF = {3: 0.5, 4: 0.8, 6: 0.96, 16: 1.0}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of 4 sizes, 4 D, 2 seeds, 4 widths, in columns of another project's names."""
    rng = np.random.default_rng(0)
    rows = []
    for n in (1e4, 4e4, 2e5, 1e6):
        for seed in (0, 1):
            shift = rng.normal(0, 0.004)
            for d in (1e5, 5e5, 2e6, 1e7):
                for bits, eff in EFF.items():
                    loss = (
                        TRUTH["A"] * (n * eff) ** -TRUTH["alpha"]
                        + TRUTH["B"] * d ** -TRUTH["beta"]
                        + TRUTH["E"]
                    )
                    rows.append(
                        {
                            "params": n,
                            "tokens": d,
                            "P_w": bits,
                            "seed": seed,
                            "family": f"{n:g}-{seed}",
                            "val_loss": loss * np.exp(shift + rng.normal(0, 0.001)),
                            "ignored": "<script>alert(1)</script>",
                        }
                    )
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["precisionlaws", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


NAMES = "N=params,D=tokens,loss=val_loss"


def test_from_a_csv_to_a_figure(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        cli(
            monkeypatch,
            "fit",
            table,
            "--law",
            "neff_free,neff_kumar",
            "--columns",
            NAMES,
            "-o",
            "fits",
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "chinchilla+neff_free" in printed
    assert "95% low" in printed
    fitted = Fit.from_json((tmp_path / "fits" / "neff_free.json").read_text())
    for bits, eff in EFF.items():
        if bits < 16:
            low, high = fitted.interval(f"eff_w[{bits}]")
            assert low <= eff <= high
            assert high - low < 0.2

    assert cli(monkeypatch, "plan", "fits/neff_free.json", "--flops", "1e13", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["P"] == 4  # eff/P: .17, .20, .16, .06
    both = ("fits/neff_free.json", "fits/neff_kumar.json")
    assert cli(monkeypatch, "plot", "optimal-bits", *both) == 0
    assert cli(monkeypatch, "plot", "fit", "fits/neff_free.json", "-o", "deep/fit.svg") == 0
    assert (tmp_path / "optimal-bits.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "deep" / "fit.svg").read_text()


def test_json_holds_every_digit(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "fit.json"
    assert (
        cli(
            monkeypatch, "fit", table, "--law", "neff_free", "--columns", NAMES, "-o", out, "--json"
        )
        == 0
    )
    text = capsys.readouterr().out
    (printed,) = json.loads(text)["fits"]
    stored = Fit.from_json(out.read_text())
    assert printed["params"] == dict(stored.params)
    assert printed["certificate"]["ok"] is True
    assert printed["n"] == stored.objective.n == len(stored.rows)
    assert printed["warnings"] == list(stored.warnings)
    assert set(printed["intervals"]) == set(stored.params) | set(printed["derived"])
    for name, ends in printed["intervals"].items():
        assert tuple(ends) == stored.interval(name, printed["level"])
    assert printed["derived"]["N_opt_exponent"] == stored.quantity("N_opt_exponent")[0]
    again = Fit.from_json(text)  # what is printed is a fit like what is stored
    assert again.to_json() == stored.to_json()


def test_a_fit_that_is_not_certified_exits_with_3(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fit, "certified", property(lambda self: False))
    assert cli(monkeypatch, "fit", table, "--columns", NAMES, "--where", "P_w == 16") == 3


def test_compare_ranks_laws(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli(
            monkeypatch,
            "fit",
            table,
            "--law",
            "neff_free,neff_kumar",
            "--columns",
            NAMES,
            "--compare",
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "in_set" in printed
    assert "predicts larger runs best" in printed


def test_hold_out_on_several_bases_and_of_one_law(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("fit", table, "--columns", NAMES, "--law", "neff_free")
    assert cli(monkeypatch, *named, "--bases", "chinchilla,kaplan", "--holdout", "D", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"][0]["full_name"] == "chinchilla+neff_free"
    assert {row["by"] for row in printed["rows"]} == {"D"}
    assert "predicts larger runs best" in printed["says"][0]
    assert cli(monkeypatch, *named, "--holdout", "N") == 0
    printed = capsys.readouterr().out
    assert "coverage" in printed
    assert "with E = 0" in printed
    assert cli(monkeypatch, *named, "--holdout", "flops") == 2
    assert "by one of compute, N, D, got 'flops'" in capsys.readouterr().err


def test_runs_list_show_and_export(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli(
            monkeypatch,
            "runs",
            "list",
            table,
            "--where",
            "P_w <= 3 and seed == 0",
            "--columns",
            "params,val_loss",
            "--sort",
            "-val_loss",
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 16
    assert cli(monkeypatch, "runs", "export", table, "-o", tmp_path / "x.parquet") == 0
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == 128
    assert cli(monkeypatch, "runs", "export", table) == 0
    assert capsys.readouterr().out.count("\n") == 129
