"""Runs trained again from their rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import precisionlaws as pl
from precisionlaws.cli.runs import app
from precisionlaws.config import ConfigError, flat
from precisionlaws.run import Exec, compose, run_id
from precisionlaws.sweep.repeat import Repeat, noise, repeat, run_of
from precisionlaws.training.train import train

SMALL = ["size=7k", "tokens=4096", "data.eval_tokens=2048", "data.context=64"]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=gpt", "optim=adopt", "lr_schedule=cosine", "seed=3"],
        ["quant=low_precision", "quant.weights.bits=4", "format@quant.kv=fp8", "dtype=bfloat16"],
        [
            "size=100k",
            "model.hidden=128",
            "format@quant.weights=mxfp4",
            "format@quant.activations=mxfp8",
            "quant.rotation=hadamard",
        ],
        ["data=markov", "model.tied=true", "batch_tokens=512"],
    ],
)
def test_a_row_describes_its_run(overrides: list[str], tmp_path: Path) -> None:
    run = compose([*SMALL, *overrides])
    row = flat(run) | flat(run.optimizer, "optim")
    row |= {"run_id": run_id(run), "D": run.D, "batch_tokens": run.batch, "N": run.N}
    wide = pd.DataFrame([row, {"run_id": "other"}])  # absent values make floats of whole numbers
    wide.to_parquet(tmp_path / "f.parquet")
    for table in (wide, pd.read_parquet(tmp_path / "f.parquet")):
        assert run_id(run_of(table.iloc[0].to_dict())) == run_id(run)
    older = {k: v for k, v in row.items() if not k.startswith("parametrization")}
    assert run_id(run_of(older)) == run_id(run)
    with pytest.raises(ConfigError, match="another version"):
        run_of(row | {"seed": 77})


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    store = tmp_path_factory.mktemp("store")
    for seed in (0, 1):
        for bits in (16, 4):
            train(compose([*SMALL, f"seed={seed}", f"quant.weights.bits={bits}"]), store)
    return pl.load(store)


def test_the_same_machine_gives_the_same_bits(frame: pd.DataFrame, tmp_path: Path) -> None:
    found = list(repeat(frame, str(tmp_path), 4, 0))
    assert sorted(r.run_id for r in found) == sorted(frame.run_id)
    assert {r.verdict for r in found} == {"the same bits"}
    costs = frame.pivot_table("loss", "seed", "P_w")
    assert found[0].noise == pytest.approx((costs[4] - costs[16]).std())


@pytest.mark.parametrize("model", ["llama", "gpt"])
def test_rows_older_than_our_own_parts_are_repeated_as_they_were(
    tmp_path: Path, model: str
) -> None:
    """They were trained by torch's, where ours would be taken today."""
    words = [*SMALL[:2], "data.eval_tokens=1600", "data.context=160", "batch_tokens=320"]
    for way in ("torch", "auto"):
        exec = Exec(device="cpu", threads=1, parts=way)
        train(compose([*words, f"model={model}"]), tmp_path / way, exec)
    old, new = pl.load(tmp_path / "torch"), pl.load(tmp_path / "auto")
    ours = "blocks gelu" if model == "gpt" else "blocks"
    assert (old["exec.parts"][0], new["exec.parts"][0]) == ("torch", ours)
    assert old.loss[0] != new.loss[0]
    assert old.loss[0] == pytest.approx(new.loss[0], abs=1e-3)
    older = old.drop(columns="exec.parts")
    mixed = pd.concat([older, new.assign(seed=1)])  # one row has the fact, the other has not
    for suffix, write in (("csv", mixed.to_csv), ("parquet", mixed.to_parquet)):
        write(tmp_path / f"mixed.{suffix}", index=False)
        assert list(pl.load(tmp_path / f"mixed.{suffix}")["exec.parts"]) == ["torch", ours]
    older.to_parquet(tmp_path / "older.parquet")
    for i, table in enumerate((old, pl.load(tmp_path / "older.parquet"), new)):
        (again,) = repeat(table, str(tmp_path / f"again{i}"), 1, 0, Exec(device="cpu", threads=1))
        assert (again.verdict, again.alike) == ("the same bits", True)


def test_the_command_says_which_run_does_not_come_out(frame: pd.DataFrame, tmp_path: Path) -> None:
    wrong = frame.assign(loss=frame.loss + pd.Series([0.5, 0, 0, 0]))
    wrong.to_parquet(tmp_path / "frame.parquet")
    call = [str(tmp_path / "frame.parquet"), "--sample", "4", "--into", str(tmp_path / "again")]
    done = CliRunner().invoke(app, ["repeat", *call])
    assert done.exit_code == 1, done.output
    assert "DIFFERS where the same bits are promised" in done.output
    assert "3 of 4 the same bits, 3 as they should be" in done.output
    rows: list[dict[str, Any]] = json.loads(CliRunner().invoke(app, ["repeat", *call, "--json"]).output)  # fmt: skip
    assert [r["holds"] for r in rows].count(False) == 1


def test_elsewhere_two_standard_deviations_are_allowed() -> None:
    near, far = (Repeat("r", 2.0, 2.0 + d, alike=False, noise=0.01) for d in (0.019, 0.021))
    assert near.holds
    assert not far.holds
    assert "DIFFERS by more than 2 sd, 0.02" in far.verdict
    assert not Repeat("r", 2.0, 2.019, alike=True, noise=0.01).holds
    lonely = Repeat("r", 2.0, 2.019, alike=False, noise=float("nan"))
    assert not lonely.holds
    assert "nothing to judge it by" in lonely.verdict


def test_more_runs_than_there_are(frame: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--sample must be 1 to 4, the finished runs here, got 5"):
        list(repeat(frame, str(tmp_path), 5, 0))
    one_seed: Any = frame[frame.seed == 0]
    assert np.isnan(noise(one_seed, frame.N.iloc[0]))


def test_noise_is_of_seeds_and_not_of_settings() -> None:
    """Costs of .1 and .3 nats under two kinds of scales and rates, each ± .01 over two seeds."""
    rows = [
        {"eval_id": "final", "status": "finished", "model": "llama", "family": f"f{seed}", "N": 10, "D": 5, "P_w": P,
         "P_a": 16, "P_kv": 16, "optim.lr": lr, "quant.weights.granularity": scales if P < 16 else None,
         "loss": 2 + seed + lr + (P < 16) * ((0.1 if scales == "row" else 0.3) + lr + 0.01 * (1 - 2 * seed))}
        for seed in (0, 1) for lr in (0.2, 0.7) for P, scales in ((16, "row"), (4, "row"), (4, "tensor"))
    ]  # fmt: skip
    assert noise(pd.DataFrame(rows), 10) == pytest.approx(0.01 * 2**0.5)


@pytest.mark.slow
def test_runs_that_ship_come_out_again_here(tmp_path: Path) -> None:
    """On another machine than theirs, most likely: then within twice the noise; else to the bit."""
    cheap = pl.load("pkg:study").query("D < 1.1e6 and N < 3e4")
    again = list(repeat(cheap, str(tmp_path), sample=10, seed=0))
    assert [(r.run_id, r.verdict) for r in again if not r.holds] == []
