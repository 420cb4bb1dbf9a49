"""Formats ranked: known efficiencies come out again, and the law of their errors foretells each from the others."""

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.fitting.formats import COLUMNS, labels, rank, shown, width_of
from precisionlaws.fitting.simulate import crossed, simulate
from precisionlaws.laws import law
from precisionlaws.laws.neff_gmse import gmse

TRUE = {"A": 6.5, "alpha": 0.28, "B": 17.3, "beta": 0.19, "E": 0.5, "F": 0.41, "C": 1.39, "L": 1.0}
KINDS = {  # width of equal error on N(0, 1): the columns of a store
    2.0: {"quant.weights": "midrise", "quant.weights.bits": 2},
    2.6: {"quant.weights": "int", "quant.weights.bits": 3, "quant.weights.scale": "absmax"},
    3.0: {"quant.weights": "int", "quant.weights.bits": 3, "quant.weights.scale": "mse"},
    3.7: {"quant.weights": "mx", "quant.weights.element": "e2m1"},
    4.1: {"quant.weights": "nvfp4"},
    6.0: {"quant.weights": "mx", "quant.weights.element": "e2m3"},
}
BITS = {2.0: 2, 2.6: 3, 3.0: 3, 3.7: 4, 4.1: 4, 6.0: 6}


def study() -> Any:
    design = crossed((7e3, 20e3, 50e3), (250e3, 500e3), [{"P_w": P} for P in KINDS], seeds=4)
    frame: Any = simulate(law("chinchilla+neff_gmse"), TRUE, design, family_sd=0.01, run_sd=5e-4)
    low = frame["P_w"] < 16
    frame["gmse_w"] = [error(P) if P < 16 else np.nan for P in frame["P_w"]]
    for name in sorted({c for kind in KINDS.values() for c in kind}):
        frame[name] = [KINDS.get(P, {"quant.weights": "int"}).get(name) for P in frame["P_w"]]
    frame["P_w"] = frame["P_w"].map(BITS).where(low, 16.0)
    return frame


def error(P: float) -> float:
    from precisionlaws.laws.neff_gmse import log_gmse

    return float(np.exp(log_gmse(np.array(P))))


@pytest.fixture(scope="module")
def found() -> Any:
    return rank(study(), resamples=100)


def test_efficiencies_come_out_again_in_their_order(found: Any) -> None:
    t = found.table
    assert t["format"].tolist() == [
        "mx6 element=e2m3", "nvfp4", "mx4 element=e2m1", "int3 scale=mse", "int3 scale=absmax", "midrise2",
    ]  # fmt: skip
    true = [float(law("neff_gmse").terms[0].scale(TRUE, {"P_w": np.array(P), "P_a": np.array(16.0), "P_kv": np.array(16.0)})) for P in sorted(KINDS, reverse=True)]  # fmt: skip
    assert ((t["eff"] - true).abs() < 0.02).all()
    assert (t["eff_low"] <= t["eff"]).all()
    assert (t["eff"] <= t["eff_high"]).all()
    assert (t["families"] == 12).all()
    assert (t["runs"] == 24).all()
    assert t["delta"].is_monotonic_increasing
    assert set(COLUMNS) <= set(t.columns)


def test_each_is_foretold_from_the_others(found: Any) -> None:
    t = found.table
    assert (t["error"].abs() < 3e-3).all()
    assert ((t["predicted"] - t["eff"]).abs() < 0.03).all()
    said = " ".join(found.says)
    assert "rank correlation 1.00" in said
    assert "furthest off is" in said
    assert len(shown(t)) == 1 + len(t)


@pytest.mark.slow
def test_a_format_off_the_law_is_named() -> None:
    frame = study()
    frame.loc[frame["gmse_w"] == error(3.0), "loss"] += 0.03
    found = rank(frame, resamples=100)
    row = found.table.set_index("format").loc["int3 scale=mse"]
    assert row["error"] == pytest.approx(-0.03, abs=5e-3)
    assert "furthest off is int3 scale=mse: 0.03 nats better predicted" in found.says[-1]


def test_without_errors_nothing_is_foretold() -> None:
    found = rank(study().drop(columns="gmse_w"), resamples=100)
    assert found.law is None
    assert "nothing is predicted from errors on normal values: rows without gmse_w" in found.says[-1]  # fmt: skip


def test_other_peoples_rows_have_widths_for_names() -> None:
    frame = study()[["run_id", "family", "N", "D", "P_w", "loss", "seed"]]
    assert sorted(set(labels(frame, "w"))) == ["", "2 bits", "3 bits", "4 bits", "6 bits"]
    assert rank(frame, resamples=100).table["format"].tolist() == ["6 bits", "4 bits", "3 bits", "2 bits"]  # fmt: skip


def test_nothing_to_rank() -> None:
    frame = study()
    with pytest.raises(ValueError, match="nothing to rank: the frame has no run below 16 bits in P_w"):  # fmt: skip
        rank(frame[frame["P_w"] == 16])
    with pytest.raises(ValueError, match="nothing to rank: the frame has only nvfp4 in P_w"):
        rank(frame[(frame["P_w"] == 16) | (frame["quant.weights"] == "nvfp4")])


def test_widths_of_equal_error() -> None:
    assert width_of(gmse(4)[0]) == pytest.approx(4)
    assert width_of(0.9) == 1
    assert width_of(1e-12) == 12


@pytest.mark.slow
def test_command(tmp_path: Any) -> None:
    path = tmp_path / "runs.csv"
    study().to_csv(path, index=False)
    done = CliRunner().invoke(app, ["fit", str(path), "--formats", "--resamples", "100"])
    assert done.exit_code in (0, 3), done.output  # two D do not always identify the base
    assert done.stdout.splitlines()[1].split()[1:3] == ["mx6", "element=e2m3"]
    done = CliRunner().invoke(app, ["fit", str(path), "--formats", "--out", str(tmp_path / "x.json")])  # fmt: skip
    assert "--out is for fits" in str(done.exception)
