"""Sweeps with real worker processes: nothing lost, nothing twice, whatever kills them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from precisionlaws.store import load
from precisionlaws.sweep.launchers.local import cause

COMMAND = [sys.executable, "-P", "-m", "precisionlaws.cli"]
ALONE = "exec.pack=1"  # a unit for every trunk


@pytest.fixture
def study_file(tiny: list[str], tmp_path: Path) -> Path:
    """Three trunks of two runs; PTQ on the unquantized ones."""
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "2560,5120"}
    blocks = [
        settings | {"ptq": "rtn", "ptq.bits": "3,4"},
        settings | {"quant.weights.bits": "3,4"},
    ]
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"points": blocks}))
    return path


def sweep(study: Path, store: Path, *more: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "sweep", str(study), "--store", str(store), *more]
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def frame(store: Path) -> pd.DataFrame:
    return load(store).drop(columns="seconds")


def test_a_sweep_fills_its_store_once_and_the_api_agrees(study_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = sweep(study_file, store)
    assert first.returncode == 0, first.stderr
    assert "10 of 10 points" in first.stdout
    rows = load(store)
    assert list(rows.eval_id).count("final") == 6
    assert rows.delta_ptq.notna().sum() == 4
    assert set(rows["exec.threads"]) == {1}
    stamps = {p: p.stat().st_mtime_ns for p in store.rglob("*.json")}
    again = sweep(study_file, store, "--json")
    assert json.loads(again.stdout)["finished"] == 10
    assert "to go" not in again.stderr
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*.json")} == stamps
    assert list((store / "claims").iterdir()) == []

    from precisionlaws.sweep.api import quantize

    more = quantize(store, "rtn", "3,5", ["group=8", "granularity=group"], where="D < 5000")
    assert sorted(more.P_post) == [3, 5]
    same = load(store)
    plain = same[(same.run_id == more.run_id[0]) & (same.eval_id == "final")].iloc[0]
    assert more.loss.tolist() == pytest.approx((plain.loss + more.delta_ptq).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_kill_9_half_way_and_again(
    study_file: Path, tmp_path: Path, whole_group: bool, sweeps: Any
) -> None:
    """Killed each time another trunk checkpoint has appeared, so that every restart goes on from one."""
    smooth, rough = tmp_path / "smooth", tmp_path / "rough"
    longer = "tokens=64000,256000"
    assert sweep(study_file, smooth, longer).returncode == 0
    for kills in range(1, 4):
        process = sweeps.begin(study_file, rough, longer)
        while len(list(rough.glob("trunks/*/step-*.safetensors"))) < kills:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
        if whole_group:
            subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
        process.kill()
        process.wait()
        assert len(list(rough.glob("runs/*/result.json"))) < 6
    final = sweep(study_file, rough, longer)
    assert final.returncode == 0, final.stderr
    pd.testing.assert_frame_equal(frame(rough), frame(smooth))


@pytest.mark.slow
def test_killed_ten_times_at_random_moments() -> None:
    """Workers, parents, within renames: benchmarks/bench_kill.py, which says what it compared."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_kill.py"
    done = subprocess.run([sys.executable, str(script), "10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the frame is identical but for `seconds`" in done.stdout


@pytest.mark.slow
def test_sigterm_to_one_worker_leaves_its_unit_to_another(
    study_file: Path, tmp_path: Path, sweeps: Any
) -> None:
    process = sweeps.begin(study_file, tmp_path / "s", ALONE, "tokens=128000")
    os.kill(sweeps.holder(process, tmp_path / "s"), signal.SIGTERM)
    assert "5 of 5 points" in sweeps.end(process)


@pytest.mark.slow
def test_an_error_that_was_outlived_is_no_failure(study_file: Path, tmp_path: Path) -> None:
    """PTQ of one run fails and is repaired: later sweeps are whole, also without --retry."""
    store = tmp_path / "s"
    assert sweep(study_file, store).returncode == 0
    run = next(p.parent for p in store.glob("runs/*/points") if "-5120-" in p.parent.name)
    for point in (run / "points").iterdir():
        point.unlink()
    good = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(good[:-4] + b"oops")
    failed = sweep(study_file, store)
    assert failed.returncode == 1
    assert "is not the one that gave its run's loss" in failed.stdout
    assert [p.parent for p in store.rglob("error.json")] == [run]  # and no other run is blamed
    (run / "checkpoint.safetensors").write_bytes(good)
    assert sweep(study_file, store, "--retry", "failed").returncode == 0
    assert sweep(study_file, store).returncode == 0


def test_workers_import_nothing_from_the_current_folder(study_file: Path, tmp_path: Path) -> None:
    (tmp_path / "csv.py").write_text("raise SystemExit('imported from the current folder')")
    done = sweep(study_file, tmp_path / "s", "tokens=2560", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_store(study_file: Path, tmp_path: Path, sweeps: Any) -> None:
    process = sweeps.begin(study_file, tmp_path / "s", ALONE, "tokens=512000,1024000")
    sweeps.holder(process, tmp_path / "s")
    process.send_signal(signal.SIGINT)
    told = sweeps.end(process, 130)
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert list((tmp_path / "s").rglob("*.safetensors"))  # the workers saved before they left
    assert not [p for p in (tmp_path / "s" / "claims").iterdir() if p.suffix == ".json"]


@pytest.mark.slow
def test_two_sweeps_on_one_store_both_end_well(
    study_file: Path, tmp_path: Path, sweeps: Any
) -> None:
    both = [sweeps.begin(study_file, tmp_path / "s", "--json") for _ in range(2)]
    for process in both:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        assert json.loads(out)["finished"] == 10
    assert sweep(study_file, tmp_path / "alone").returncode == 0
    pd.testing.assert_frame_equal(frame(tmp_path / "s"), frame(tmp_path / "alone"))


@pytest.mark.slow
def test_a_failure_is_kept_told_and_retried_on_request_only(
    study_file: Path, tmp_path: Path
) -> None:
    """A directory where a checkpoint should be stops one trunk and no other."""
    store = tmp_path / "s"
    assert sweep(study_file, store, "tokens=2560").returncode == 0
    broken = next(p for p in (store / "trunks").iterdir() if "-w3-" in p.name)
    checkpoint = next(broken.glob("step-*.safetensors"))
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(b"junk")
    failed = sweep(study_file, store)
    assert failed.returncode == 1
    assert "cannot be read" in failed.stdout
    assert "9 of 10 points" in failed.stdout
    checkpoint.write_bytes(good)
    skipped = sweep(study_file, store)
    assert skipped.returncode == 1
    assert "--retry failed" in skipped.stdout
    retried = sweep(study_file, store, "--retry", "failed")
    assert retried.returncode == 0, retried.stdout
    assert not list(store.rglob("error.json"))


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_unit_only(
    study_file: Path, tmp_path: Path, sweeps: Any
) -> None:
    process = sweeps.begin(study_file, tmp_path / "s", ALONE, "tokens=128000")
    os.kill(sweeps.holder(process, tmp_path / "s"), signal.SIGKILL)
    assert "killed by signal 9 (out of memory?)" in sweeps.end(process, 1)
    assert list(tmp_path.glob("s/runs/*/result.json"))  # of the other units
    sweeps.end(
        sweeps.begin(study_file, tmp_path / "s", ALONE, "tokens=128000", "--retry", "failed")
    )


def test_why_a_worker_ended_is_said_in_words() -> None:
    assert cause(-9, []) == "the worker was killed by signal 9 (out of memory?)"
    assert cause(1, ["Traceback", "ImportError: no torch"]).endswith(
        "exit code 1: ImportError: no torch"
    )
