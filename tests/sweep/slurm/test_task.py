"""What a job does, without Slurm: its units in a process of its own, and what it does when it is told to go."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.run import run_id
from precisionlaws.store import Store, load, write
from precisionlaws.sweep.launchers.slurm import Slurm
from precisionlaws.sweep.points import study
from precisionlaws.sweep.rates import IDLE
from precisionlaws.sweep.schedule import unit_of, units
from precisionlaws.sweep.slurm import batches, job, script
from precisionlaws.sweep.slurm.batches import Batch
from precisionlaws.sweep.slurm.task import Ear


@pytest.fixture
def batch(tiny: list[str], tmp_path: Path) -> Batch:
    """Two trunks that are one pack, with PTQ on the unquantized one, in one job."""
    settings = dict(text.split("=", 1) for text in tiny)
    blocks = [settings | {"ptq": "rtn", "ptq.bits": "3"}, settings | {"quant.weights.bits": "3"}]
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"points": blocks}))
    plan = study(str(path), ["launcher=slurm", "exec.pack=2"])
    todo = units(plan.points, plan.exec)
    assert isinstance(plan.launcher, Slurm)
    (made,) = script.batches(todo, plan.launcher, plan.exec, Store(tmp_path / "s"), IDLE, "a", 9)
    made.save()
    assert unit_of(made.tasks[0][0]) == todo[0]  # packs and all
    return made


def start(batch: Batch, root: Path, **more: str) -> subprocess.CompletedProcess[str]:
    own = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"} | more
    command = [sys.executable, "-P", "-m", "precisionlaws.sweep.slurm.task", str(root), batch.name]
    return subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, check=False
    )


def test_a_job_does_its_units_once(batch: Batch, tmp_path: Path) -> None:
    done = start(batch, tmp_path / "s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 0/20" in done.stdout
    assert len(load(tmp_path / "s")) == 3
    again = start(batch, tmp_path / "s")
    assert "everything is done already" in again.stdout
    missing = start(batch, tmp_path / "s", SLURM_ARRAY_TASK_ID="5")
    assert missing.returncode == 2
    assert "has 1 jobs, none is number 5" in missing.stdout


def test_a_batch_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 0 jobs, none is number 3.*not see the store"):
        batches.read_task(tmp_path / "none", 3)
    (tmp_path / "tasks.jsonl").write_text("[{]")
    with pytest.raises(ConfigError, match=r"tasks\.jsonl cannot be read"):
        batches.read_task(tmp_path, 0)


@pytest.fixture
def stopped(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job that was told to go: `again` with what it needs."""
    store, log = Store(tmp_path / "s"), job.Log()
    log.begin([unit_of(m) for m in batch.tasks[0]], 1, store)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    monkeypatch.setattr(job.time, "sleep", lambda seconds: None)
    return store, batch.tasks[0], log


@pytest.mark.parametrize(
    ("state", "requeued"), [("RUNNING", True), ("COMPLETING", False), ("CANCELLED", False)]
)
def test_only_a_job_that_slurm_does_not_end_is_queued_again(
    stopped: Any, fake: Any, state: str, requeued: bool
) -> None:
    fake.says("squeue", f"7|0|{state}|None|a\n8|0|RUNNING|None|a\n")
    assert job.again(*stopped) == (None if requeued else 0)
    assert fake.calls("scontrol") == ["requeue 7_0"] * requeued


def test_where_requeueing_is_forbidden_the_sweep_submits_again(stopped: Any, fake: Any, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    fake.says("squeue", "7|0|RUNNING|None|a\n")
    fake.fails("scontrol", "Job is not permitted to be requeued")
    assert job.again(*stopped) == 0
    assert "could not be queued again: Job is not permitted" in capsys.readouterr().out


def test_a_job_that_gets_nowhere_is_given_up(
    stopped: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, messages, _ = stopped
    fake.says("squeue", "7|0|RUNNING|None|a\n")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(job.STARTS - 1))
    write(store.trunk(messages[0]["trunks"][0]) / "step-3.safetensors", "")
    assert job.again(*stopped) is None  # it has got somewhere
    next(iter(store.root.glob("trunks/*/*"))).unlink()
    assert job.again(*stopped) == 1
    errors = [json.loads(p.read_text())["error"] for p in store.root.glob("runs/*/error.json")]
    assert len(errors) == 2
    assert "no step forward in 4 starts of job 7_0: give it more time (launcher.time)" in errors[0]


def test_failures_of_workers_that_died_reach_the_store(stopped: Any) -> None:
    store, messages, _ = stopped
    first, second = (run_id(r) for r in unit_of(messages[0]).runs)
    write(store.run(first) / "error.json", '{"error": "its own"}')
    job.keep_errors(store, {first: "died", second: "killed by signal 9"})
    found = {n: json.loads((store.run(n) / "error.json").read_text())["error"] for n in (first, second)}  # fmt: skip
    assert found == {first: "its own", second: "killed by signal 9"}


def test_a_signal_before_the_work_is_heard_when_it_begins() -> None:
    ear = Ear()
    ear(signal.SIGUSR2, None)
    with pytest.raises(KeyboardInterrupt):
        ear.listen()
    ear(signal.SIGTERM, None)  # no second interruption
    assert ear.told == [signal.SIGUSR2, signal.SIGTERM]
    assert ear.leave() == 0
    late = Ear(listening=True)
    with pytest.raises(KeyboardInterrupt):
        late(signal.SIGTERM, None)


def test_workers_share_the_gpus_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert job.gpus(2) == ("2", "5")
    assert job.gpus(1) == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert job.gpus(2) == ()
