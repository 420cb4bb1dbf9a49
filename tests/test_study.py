"""The study's notebooks find answers that are known."""

import contextlib
import functools
import io
import re
import runpy
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def study_like(luck_sd: float) -> pd.DataFrame:
    """A study whose answers are known: losses linear in ln N but for the luck of families, eff = exp(-Δ/.1)."""
    rows = []
    harms = {(16, 16, 16): 0.0, (4, 16, 16): 0.02, (16, 4, 16): 0.03, (16, 16, 4): 0.01, (6, 16, 16): 0.002,
             (4, 4, 4): 0.065, (8, 8, 8): 0.001}  # fmt: skip
    rng = np.random.default_rng(0)
    for width, N in ((16, 6656), (32, 23552), (48, 55296), (64, 150528)):
        for seed in range(3):
            luck = luck_sd * rng.standard_normal()
            for D in (5e5, 1e6, 2e6):
                run = {"family": f"{N}-{seed}", "N": N, "D": D, "seed": seed, "size.width": width, "eval_id": "final",
                       "optim.lr": 0.48 / width, "lr_schedule": "wsd", "lr_schedule.decay": 0.2, "status": "finished",
                       "phase": "final", "P_post": 16.0, "ptq": "none", "arch": "llama"}  # fmt: skip
                for role in ("weights", "activations", "kv"):
                    run |= {f"quant.{role}.granularity": "group", f"quant.{role}.scale": "absmax"}
                for (w, a, kv), harm in harms.items():
                    bits = {"P_w": w, "P_a": a, "P_kv": kv, "run_id": f"{N}-{seed}-{D}-{w}{a}{kv}"}
                    loss = (
                        4
                        - 0.1 * np.log(N)
                        - 0.1 * np.log(D)
                        + luck
                        + (harm if N < 1e5 else 0)
                        + 1e-5 * rng.standard_normal()
                    )
                    rows.append(run | bits | {"loss": loss})
                    if a == kv == 16:
                        kept = {16: 1.0, 4: 0.5, 6: 0.8}[w]
                        point = {
                            "eval_id": "ptq",
                            "ptq": "rtn",
                            "P_post": 3.0,
                            "ptq.granularity": "group",
                        }
                        for phase, share, times in (("final", 1.0, 1.5), ("stable", 0.8, 1.0)):
                            damage = (
                                1e-4
                                * times
                                * kept
                                * (share * D) ** 0.6
                                / N**0.2
                                * (1 + 1e-4 * rng.standard_normal())
                            )
                            rows.append(run | bits | point | {"eval_id": phase + "3", "phase": phase, "loss": loss, "delta_ptq": damage, "D": share * D})  # fmt: skip
            rows.append(rows[-1] | {"optim.lr": 1.0, "eval_id": "final", "ptq": "none", "P_post": 16.0, "loss": 9.0})  # fmt: skip
    return pd.DataFrame(rows)


def test_the_study_answers_what_it_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_like(0.02).to_parquet(tmp_path / "frame.parquet")
    monkeypatch.setenv("PRECISIONLAWS_STORE", str(tmp_path / "frame.parquet"))
    table = runpy.run_path(str(NOTEBOOKS / "study.py"))["table"]
    assert "Q4" in capsys.readouterr().out
    value, near = table.value.astype(float), functools.partial(pytest.approx, abs=3e-4)
    assert value["Q1a"] == near(0.6)
    assert value["Q1b"] == near(np.log(1.5))
    # the largest size is unharmed here: an average over families weighs it as the others
    assert value["Q2 A-W"] == near(0.01 * 3 / 4)
    assert value["Q2 KV-W"] == near(-0.01 * 3 / 4)
    assert value["Q3"] == near(0.005 * 3 / 4)
    assert value["Q5"] == near((np.log(0.5) + np.log(0.8)) / 2)
    assert (
        list(table.families.drop("Q4")) == [12] * 7
    )  # the smallest models have no smaller ones to be worth


def test_worth_is_exact_where_losses_are_linear_in_ln_N(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = study_like(0)
    frame[frame.N < 1e5].to_parquet(tmp_path / "frame.parquet")
    monkeypatch.setenv("PRECISIONLAWS_STORE", str(tmp_path / "frame.parquet"))
    study = runpy.run_path(str(NOTEBOOKS / "study.py"))
    found = study["worth"](frame[frame.N < 1e5], 4, 4, 4).groupby(level="family").mean()
    reached = found.dropna()
    assert np.allclose(reached, -0.065 / 0.1, atol=1e-3)
    assert sorted({float(f.split("-")[0]) for f in found.index[found.isna()]}) == [6656]
    assert study["table"].value.astype(float)["Q4"] == pytest.approx(np.log(2) - 0.64, abs=1e-3)
    se = study["table"].se.astype(float)["Q4"]
    lucky = study_like(0.02)
    more = study["standard_error"](study["ESTIMANDS"]["Q4"][2], lucky[lucky.N < 1e5], np.nan)
    assert more > 20 * se  # luck tilts the curve that all families are read off
    p = pd.Series({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(study["holm"](p)) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # by hand: Holm 1979


EFF: dict[tuple[int, ...], float] = {  # of W, A, KV; factors multiply in one granularity
    (4, 16, 16): 0.8, (16, 4, 16): 0.7, (16, 16, 4): 0.9, (4, 4, 16): 0.56, (4, 4, 4): 0.5, (8, 8, 8): 0.9,
}  # fmt: skip
BY_ROW: dict[tuple[int, ...], float] = {(4, 4, 4): 0.3, (8, 8, 8): 0.9}
Row = dict[str, Any]


def run(width: int, seed: int, D: float, bits: tuple[int, ...] = (16, 16, 16), rate: float = 1,
        decay: float = 0.2, scales: str = "group", **given: Any) -> Row:  # fmt: skip
    """A row whose loss is 4 - .1 ln(eff N D) + luck of the family."""
    N = {16: 6656, 32: 23552, 48: 55296}[width]
    eff = ({} if bits == (16, 16, 16) else EFF if scales == "group" else BY_ROW).get(bits, 1.0)
    row: Row = dict(zip(("P_w", "P_a", "P_kv"), bits, strict=True))
    for role in ("weights", "activations", "kv"):
        row |= {f"quant.{role}.granularity": scales, f"quant.{role}.scale": "absmax"}
    return row | {
        "family": f"{N}-{seed}", "N": N, "D": D, "seed": seed, "size.width": width, "optim.lr": 0.48 / width * rate,
        "run_id": f"{width}-{seed}-{D}-{bits}-{rate}-{decay}-{scales}-{given}", "eval_id": "final", "phase": "final",
        "P_post": 16.0, "ptq": "none", "arch": "llama", "status": "finished", "lr_schedule": "wsd",
        "lr_schedule.decay": decay, "loss": 4 - 0.1 * np.log(eff * N * D) + 0.01 * np.sin(N + seed),
    } | given  # fmt: skip


def rounded(
    row: Row, method: str = "rtn", P: int = 3, phase: str = "final", more: float = 1
) -> Row:
    """δ ∝ D^.6 rate^−.3, e^(.2 + .5 share) of it by the decay."""
    decay = row["lr_schedule.decay"] if phase == "final" else 0
    delta = 1e-3 * row["D"] ** 0.6 * (row["optim.lr"] * row["size.width"]) ** -0.3 * 4.0**-P
    delta *= {"rtn": 1.0, "gptq": 0.6, "quip_sharp": 0.4}[method] * np.exp(0.2 * (decay > 0) + 0.5 * decay) * more  # fmt: skip
    return row | {"eval_id": f"{method}{P}{phase}", "ptq": method, "P_post": float(P), "phase": phase,
                  "delta_ptq": delta, "ptq.granularity": "group"}  # fmt: skip


def all_blocks() -> Iterator[Row]:
    for width, seed, D in product((16, 32, 48), range(3), (5e5, 1e6, 2e6)):
        yield (base := run(width, seed, D))
        for method, P, phase in product(("rtn", "gptq", "quip_sharp"), (3, 4), ("final", "stable")):
            yield rounded(base, method, P, phase)
        for bits in EFF:
            if len(set(bits)) > 1 or width > 16:
                yield run(width, seed, D, bits)
        for bits in BY_ROW:
            if width > 16:
                yield run(width, seed, D, bits, scales="row")
    for seed, D, rate, decay in product(range(3), (1e6, 2e6), (0.5, 1, 2), (0, 0.1, 0.2, 0.5)):
        if (rate, decay) != (1, 0.2):  # these are in block A
            yield rounded(run(32, seed, D, rate=rate, decay=decay))
    for seed in range(3):
        yield rounded(run(32, seed, 2e6, lr_schedule="cosine"), more=2)
    for (rate, penalty), P in product(((0.5, 0.03), (1, 0.01), (2, 0.0)), (16, 3)):
        loss = 2 + (penalty if P == 3 else -penalty)
        yield run(32, 0, 4e6, (P, 16, 16), rate=rate, loss=loss)


def line(out: str, title: str, start: str) -> str:
    """The line that starts so, in the table of this title; spaces once."""
    table = out[out.index(title) :].split("\n\n")[0]
    lines = [" ".join(x.split()) for x in table.splitlines()]
    return next(x for x in lines if x.startswith(start))


@pytest.fixture(scope="module")
def secondary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str]]:
    """What the notebook defines and what it prints."""
    table = tmp_path_factory.mktemp("study") / "frame.parquet"
    pd.DataFrame(all_blocks()).to_parquet(table)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("PRECISIONLAWS_STORE", str(table))
        patch.syspath_prepend(str(NOTEBOOKS))
        patch.delitem(sys.modules, "study", raising=False)
        yield runpy.run_path(str(NOTEBOOKS / "study_secondary.py")), said.getvalue()


def test_secondary_answers(secondary: tuple[dict[str, Any], str]) -> None:
    _, out = secondary
    assert line(out, "Learning rates", "23552 4000000").split()[2:] == ["3", "0.0075", "0.03", "0.015", "0.03", "0.02", "0.01"]  # fmt: skip
    assert "13.4 (13.4 to 13.4; 9)" in line(out, "Order, millinats", "4")  # 100 ln(.8 / .7)
    assert "58 (58 to 58; 9)" in line(out, "At 4 bits", "W A ")
    assert "0.797 (0.797 to 0.797; 6)" in line(out, "At 4 bits", "W A KV")  # 100 ln(.504 / .5)
    for scales, P, eff in (("16 values", 4, 0.5), ("16 values", 8, 0.9), ("row", 4, 0.3)):
        said = re.search(r"([\d.]+) to ([\d.]+); 6\) 0 of 18", line(out, "eff(P)", f"{scales} {P}"))
        assert said
        assert float(said[1]) < eff < float(said[2])
    for cost, best in {"paper": (4, 8), "h100_fp8": (8, 8), "flat": (16, 16)}.items():
        assert line(out, f"cost {cost}", f"16 values {best[0]} ")
        assert line(out, f"cost {cost}", f"row {best[1]} ")
    assert "0.6 (0.6 to 0.6; 9)" in line(out, "Slope of ln δ", "gptq 4")
    assert line(out, "Share of RTN", "quip_sharp").count("0.4 (0.4 to 0.4; 9)") == 2
    effects = "0.6 (0.6 to 0.6; 3) 0.2 (0.2 to 0.2; 3) 0.5 (0.5 to 0.5; 3) -0.3 (-0.3 to -0.3; 3)"
    assert line(out, "Partial effects", "0") == effects
    assert "1.35 (1.35 to 1.35; 3)" in line(out, "δ(3) decayed / undecayed", "55296")  # e^.3
    by_share = "1.28 (1.28 to 1.28; 3) 1.35 (1.35 to 1.35; 3) 1.57 (1.57 to 1.57; 3)"
    for rate in ("all", "0.0075", "0.03"):
        assert line(out, "δ(3) against that of no decay", rate) == f"{rate} {by_share}"
    assert "2 (2 to 2; 3)" in line(out, "δ(3) under cosine", "2")


def test_overtraining_is_relative_to_the_best_split(
    secondary: tuple[dict[str, Any], str],
) -> None:
    notebook, _ = secondary
    p = {"A": 50.0, "B": 400.0, "alpha": 0.34, "beta": 0.28}
    N, D = 2e4, 8e6
    best: Any = minimize_scalar(
        lambda x: p["A"] * np.exp(-p["alpha"] * x) + p["B"] * (N * D / np.exp(x)) ** -p["beta"],
        bounds=(0, 30), method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    ratio = D / N / (N * D / np.exp(2 * float(best.x)))
    assert notebook["ln_overtrained"](p, N, D) == pytest.approx(np.log(ratio), abs=1e-5)
