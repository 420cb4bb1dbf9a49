"""Rows from someone else's loop: valid, fitted with the rest, and never half there."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import precisionlaws as pl
from precisionlaws.config import ConfigError

RUN: dict[str, Any] = {"N": 1000, "D": 20_000, "seed": 0}


def results(store: Path) -> list[Path]:
    return sorted(store.glob("runs/*/result.json"))


def broken(store: Path, error: BaseException) -> None:
    with pl.record(store, **RUN) as run:
        run.log(0, 5.0)
        run.loss(2.0)
        raise error


def errors(store: Path) -> list[dict[str, str]]:
    return [json.loads(p.read_text()) for p in store.glob("runs/*/error.json")]


def test_a_recorded_run_is_a_row_with_every_meaning_filled_in(tmp_path: Path) -> None:
    more: dict[str, Any] = {"optim.lr": 3e-4, "flops": 1e9}
    with pl.record(tmp_path, **RUN, P_w=4, arch="mamba", **more) as run:
        run.log(0, 5.5)
        run.log(1, 5.25, grad_norm=0.5)
        run.loss(2.31, se=0.01)
        run.delta_ptq(3, 0.2, 0.02)
        run.delta_ptq(3, 0.1, 0.01, method="gptq", group=64)
    frame = pl.load(tmp_path)
    row = frame[frame.eval_id == "final"].iloc[0]
    expected = {
        "N": 1000, "D": 20_000, "seed": 0, "P_w": 4, "P_a": 16, "P_kv": 16, "P_post": 16, "loss": 2.31,
        "loss_se": 0.01, "arch": "mamba", "mode": "qat", "phase": "final", "status": "finished",
        "objective": "causal", "family": "ext-mamba-N1000-s0", "optim.lr": 3e-4, "flops": 1e9,
    }  # fmt: skip
    assert {k: row[k] for k in expected} == expected
    assert row.seconds > 0
    assert row.run_id.startswith("ext-mamba-1000-20000-w4-s0-")
    points = frame.loc[frame.eval_id != "final"].sort_values("delta_ptq")
    assert points.delta_ptq.tolist() == [0.1, 0.2]
    assert points.loss.tolist() == pytest.approx([2.41, 2.51])
    assert points.ptq.tolist() == ["gptq", "external"]
    assert points["ptq.group"].iloc[0] == 64
    lines = (tmp_path / "runs" / row.run_id / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][1] == {"step": 1, "loss": 5.25, "grad_norm": 0.5}


def test_recorded_rows_fit_with_rows_of_ours(tmp_path: Path, tiny: list[str]) -> None:
    from precisionlaws.training.train import train

    ours = train(pl.compose(tiny), tmp_path).row
    rng = np.random.default_rng(0)
    for N in (1e4, 1e5, 1e6):
        for D in (1e6, 1e7, 1e8):
            for P in (4, 16):
                u = 1 - math.exp(-P / 2) if P < 16 else 1.0
                loss = 1.5 + 20 / (N * u) ** 0.4 + 60 / D**0.4
                with pl.record(tmp_path, N=N, D=D, seed=1, P_w=P) as run:  # type: ignore[arg-type]
                    run.loss(loss * math.exp(1e-3 * rng.standard_normal()))
    frame = pl.load(tmp_path)
    assert len(frame) == 19
    assert ours["run_id"] in set(frame.run_id)
    fitted = pl.fit(frame.loc[frame.run_id != ours["run_id"]], "neff_free", resamples=50)
    assert fitted.params["eff_w[4]"] == pytest.approx(1 - math.exp(-2), abs=0.1)
    assert fitted.clusters == 3
    assert pl.fit(frame, "chinchilla", resamples=20).objective.n == 10


def test_an_exception_leaves_no_result_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        broken(tmp_path, RuntimeError("out of memory"))
    assert not results(tmp_path)
    (error,) = errors(tmp_path)
    assert error["error"] == "RuntimeError: out of memory"
    assert "test_record.py" in error["traceback"]
    with pl.record(tmp_path, **RUN) as again:
        again.log(0, 4.0)
        again.loss(2.0)
    assert len(results(tmp_path)) == 1
    assert not errors(tmp_path)
    assert '"loss": 4.0' in (again.folder / "metrics.jsonl").read_text()
    assert "5.0" not in (again.folder / "metrics.jsonl").read_text()


def test_an_interruption_is_no_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken(tmp_path, KeyboardInterrupt())
    assert not results(tmp_path)
    assert not errors(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_a_loss_that_is_no_number_is_a_diverged_run(tmp_path: Path, value: float) -> None:
    with pl.record(tmp_path, **RUN) as run:
        run.log(0, math.nan)
        run.loss(value)
    (row,) = pl.load(tmp_path).to_dict("records")
    assert row["status"] == "diverged"
    assert math.isnan(row["loss"])
    assert json.loads((run.folder / "metrics.jsonl").read_text())["loss"] is None
    with pytest.raises(ConfigError, match="diverged, so it has no delta_ptq"):  # noqa: SIM117
        with pl.record(tmp_path, **RUN) as run:
            run.delta_ptq(3, 0.1)


def test_a_missing_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ended without a loss: call run.loss\(value\)"):  # noqa: SIM117
        with pl.record(tmp_path, **RUN):
            pass
    assert not results(tmp_path)
    assert "without a loss" in errors(tmp_path)[0]["error"]


def test_the_same_run_twice_must_say_the_same(tmp_path: Path) -> None:
    def recorded(loss: float, **columns: Any) -> Any:
        with pl.record(tmp_path, **(RUN | columns)) as run:
            run.loss(loss)
        return run

    recorded(2.0)
    recorded(2.0)
    with pytest.raises(
        ConfigError, match="recorded already with loss 2.0, now 2.5; the first one is kept: give"
    ):
        recorded(2.5)
    assert pl.load(tmp_path).loss.tolist() == [2.0]
    assert not errors(tmp_path)
    recorded(2.5, lr=1e-3)
    assert sorted(pl.load(tmp_path).loss) == [2.0, 2.5]


def test_a_loop_may_ask_before_it_trains_and_add_points_later(tmp_path: Path) -> None:
    with pl.record(tmp_path, **RUN) as run:
        assert not run.done
        run.loss(2.0)
    with pl.record(tmp_path, **RUN) as run:
        assert run.done
        run.log(7, 1.0)
        run.delta_ptq(4, 0.05, 0.01)
    assert pl.load(tmp_path).loss.tolist() == [2.0, 2.05]
    assert not (run.folder / "metrics.jsonl").exists()


def test_the_name_is_of_everything_given(tmp_path: Path) -> None:
    def name(**given: Any) -> str:
        return pl.record(tmp_path, **(RUN | given)).run_id

    assert name() == name(N=1e3, P_w=16.0, D=np.int64(20_000))
    changes = [
        {"N": 1001}, {"D": 2}, {"seed": 1}, {"P_w": 4}, {"P_a": 4}, {"P_kv": 4}, {"arch": "x"}, {"lr": 1},
        {"lr": 2}, {"family": "f"}, {"flops": 1.0},
    ]  # fmt: skip
    names = {name(**c) for c in changes} | {name()}
    assert len(names) == len(changes) + 1
    assert all(n.startswith("ext-") for n in names)
    assert name(arch="my/../model v2").startswith("ext-my_.._model_v2-")
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "N must be a whole number of at least 1, got 0": {"N": 0},
    "N must be a whole number of at least 1, got 1.5": {"N": 1.5},
    "N must be a whole number of at least 1, got 'many'": {"N": "many"},
    "D must be a whole number of at least 1, got nan": {"D": math.nan},
    "seed must be a whole number of at least 0, got -1": {"seed": -1},
    "seed must be a whole number of at least 0, got True": {"seed": True},
    "P_w must be 1 to 16": {"P_w": 32},
    "P_kv must be a number, got '4'": {"P_kv": "4"},
    "P_a must be 1 to 16 .16: not quantized., got nan": {"P_a": math.nan},
    "arch must be a name, got ''": {"arch": ""},
    "loss is not a column to give: it comes from run.loss": {"loss": 2.0},
    "P_post is not a column to give: it comes from run.delta_ptq": {"P_post": 3},
    "lr must be finite, got nan": {"lr": math.nan},
    "flops must be a number, got 'many'": {"flops": "many"},
    "betas must be a number, text, true, false or None": {"betas": [0.9, 0.95]},
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line_before_anything_is_trained(tmp_path: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pl.record(tmp_path, **(RUN | MISTAKES[message]))


def test_mistakes_inside(tmp_path: Path) -> None:
    run = pl.record(tmp_path, **RUN)
    with pytest.raises(ConfigError, match="loss must be positive, got -1"):
        run.loss(-1)
    with pytest.raises(ConfigError, match="loss must be a number, got None"):
        run.loss(None)  # type: ignore[arg-type]
    run.loss(2.0)
    with pytest.raises(ConfigError, match="has a loss already: 2.0"):
        run.loss(2.0)
    with pytest.raises(ConfigError, match="delta must be finite, got nan"):
        run.delta_ptq(3, math.nan)
    run.delta_ptq(3, -0.01)  # rounding may help by chance
    with pytest.raises(ConfigError, match="has a delta of external at 3 bits already"):
        run.delta_ptq(3, 0.2)


def test_a_store_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not writable"), pl.record(tmp_path / "file", **RUN):
        raise AssertionError("trained for nothing")


def test_recording_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys, precisionlaws as pl
with pl.record('s', N=1, D=1, seed=0) as run: run.loss(1.0)
with pl.record('s', N=1, D=1, seed=0) as run: run.loss(1.0)
assert not {'torch', 'numpy', 'pandas', 'hydra'} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
