"""The submitter against commands that answer as Slurm does: what is submitted, followed, submitted again, failed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.run import run_id
from precisionlaws.store import Store, write
from precisionlaws.sweep.engine import Refused
from precisionlaws.sweep.schedule import Unit, unit_of
from precisionlaws.sweep.slurm import batches, manage, pool
from precisionlaws.sweep.slurm.pool import SlurmPool, last_words
from precisionlaws.sweep.slurm.queue import Silent
from tests.sweep.slurm.launched import EXEC, slurm


class Sweep:
    """A pool that is asked for what happened, without waiting."""

    def __init__(self, todo: list[Unit], root: Path, monkeypatch: pytest.MonkeyPatch, **more: Any):
        monkeypatch.setattr(pool.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(pool, "SETTLE_SECONDS", 0.0)
        self.store, self.todo = Store(root), todo
        self.pool = SlurmPool(slurm(**more), self.store, EXEC, todo, "study")
        for index, unit in enumerate(todo):
            self.pool.send(index, unit.message())

    def again(self, index: int) -> None:
        self.pool.send(index, self.todo[index].message())

    def events(self) -> list[tuple[int, dict[str, Any]]]:
        return [(i, e) for i, e in self.pool.events(0) if e["event"] != "note"]

    def told(self) -> str:
        return "\n".join(e["text"] for _, e in self.pool.events(0) if e["event"] == "note")

    def batches(self) -> list[str]:
        """First the oldest."""
        found = batches.root(self.store).glob("*/job.sh")
        return [p.parent.name for p in sorted(found, key=lambda p: p.stat().st_mtime_ns)]

    def finish(self, unit: Unit) -> None:
        for run, ptqs in zip(unit.runs, unit.ptqs, strict=True):
            write(self.store.result(run_id(run)), '{"status": "finished"}')
            for ptq in ptqs:
                write(self.store.point(run_id(run), batches.eval_id(ptq)), "{}")


@pytest.fixture
def sweep(todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Three units in one array, which the queue does not show yet."""
    made = Sweep(todo, tmp_path / "s", monkeypatch)
    fake.says("squeue", "")
    assert made.events() == []
    return made


def shows(fake: Any, sweep: Sweep, *states: str, job: int = 1, batch: int = 0) -> None:
    name = sweep.batches()[batch]
    fake.says("squeue", "".join(f"{job}|{i}|{s}|None|{name}\n" for i, s in enumerate(states)))


def test_units_become_one_array_and_are_done_when_the_store_has_them(
    sweep: Sweep, fake: Any, todo: list[Unit]
) -> None:
    (name,) = sweep.batches()
    folder = batches.root(sweep.store) / name
    assert fake.calls("sbatch") == [f"--parsable {folder}/job.sh"]
    tasks = batches.read_tasks(folder)
    assert [unit_of(t[0]).name for t in tasks] == [u.name for u in todo]
    shows(fake, sweep, "RUNNING", "RUNNING", "PENDING")
    sweep.finish(todo[1])
    assert sweep.events() == [(1, {"event": "done"})]
    for index in (0, 2):
        sweep.finish(todo[index])
    shows(fake, sweep, "COMPLETED", "COMPLETED", "COMPLETED")
    assert [i for i, _ in sweep.events()] == [0, 2]
    assert sweep.pool.followed == {}


@pytest.mark.parametrize("state", ["TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "COMPLETED", "CANCELLED"])  # fmt: skip
def test_what_slurm_ended_is_submitted_again_and_given_up_without_a_step_forward(
    sweep: Sweep, fake: Any, state: str
) -> None:
    events: list[dict[str, Any]] = []
    for tries in range(pool.TRIES):
        states = (state,) if tries else ("RUNNING", state, "RUNNING")
        shows(fake, sweep, *states, job=1 + tries, batch=tries)
        if tries and state == "CANCELLED":  # a whole array, if of one job, is cancelled on purpose
            with pytest.raises(KeyboardInterrupt):
                sweep.events()
            return
        events = [e for _ in range(3) for i, e in sweep.events() if i == 1]
        if tries < pool.TRIES - 1:
            assert events == [{"event": "stopped"}], tries
            sweep.again(1)
            sweep.events()
    assert [e["event"] for e in events] == ["failed"]
    assert f"ended as {state}" in events[0]["error"]
    assert "do nodes see" in events[0]["error"]
    assert len(fake.calls("sbatch")) == pool.TRIES


def test_a_step_forward_is_no_try(sweep: Sweep, fake: Any, todo: list[Unit]) -> None:
    for tries in range(2 * pool.TRIES):
        states = ("TIMEOUT",) if tries else ("RUNNING", "TIMEOUT", "RUNNING")
        shows(fake, sweep, *states, job=1 + tries, batch=tries)
        write(sweep.store.trunk(todo[1].name) / f"step-{tries}.safetensors", "")
        assert [e for _ in range(3) for i, e in sweep.events() if i == 1] == [{"event": "stopped"}]
        sweep.again(1)
        sweep.events()


def test_requeued_jobs_are_waited_for(sweep: Sweep, fake: Any) -> None:
    for state in ("COMPLETING", "REQUEUED", "PENDING", "REQUEUE_HOLD", "SUSPENDED", "PENDING"):
        shows(fake, sweep, state, state, state)
        assert sweep.events() == []
    assert len(fake.calls("sbatch")) == 1


def test_a_job_that_fails_is_a_failure_with_its_last_words(sweep: Sweep, fake: Any) -> None:
    shows(fake, sweep, "RUNNING", "FAILED", "RUNNING")
    log = batches.root(sweep.store) / sweep.batches()[0] / "1.log"
    log.write_text("job.sh: line 30: exec: /venv/bin/python: not found\n")
    ((index, event),) = [e for _ in range(2) for e in sweep.events()]
    assert (index, event["event"], len(event["runs"])) == (1, "failed", 2)
    assert "job 1_1 ended as FAILED: job.sh: line 30: exec: /venv/bin/python: not found" in event["error"]  # fmt: skip
    assert last_words(log.with_name("2.log")).startswith("; it wrote no log")


def test_failures_of_runs_are_those_of_the_store(sweep: Sweep, fake: Any, todo: list[Unit]) -> None:
    shows(fake, sweep, "RUNNING", "RUNNING", "RUNNING")
    name = run_id(todo[0].runs[1])
    write(sweep.store.run(name) / "error.json", json.dumps({"error": "loss of data"}))
    assert sweep.events() == [(0, {"event": "failed", "runs": [name], "error": "loss of data"})]


def test_a_silent_controller_fails_nobody(sweep: Sweep, fake: Any) -> None:
    fake.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    assert "jobs go on without it" in sweep.told()
    assert sweep.told() == ""  # once
    fake.says("squeue", "")
    shows(fake, sweep, "RUNNING", "RUNNING", "RUNNING")
    assert sweep.events() == []


def test_silence_from_the_beginning_is_an_error(
    todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fails("squeue", "squeue: error: Unable to contact slurm controller\n")
    with pytest.raises(Refused, match="no answer: Unable to contact slurm controller"):
        Sweep(todo, tmp_path / "s", monkeypatch).events()
    assert not (tmp_path / "s").exists()


def test_a_job_that_is_shown_no_more_is_gone_after_a_while(
    sweep: Sweep, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm forgets ended jobs after minutes, and a busy one shows nothing for a moment."""
    clock = [1000.0]
    monkeypatch.setattr(pool.time, "monotonic", lambda: clock[0])
    fake.says("squeue", "")
    assert sweep.events() == sweep.events() == []
    clock[0] += pool.ABSENT_SECONDS + 1
    assert [e["event"] for _, e in sweep.events()] == ["stopped"] * 3


def test_cancelled_as_a_whole_is_on_purpose(sweep: Sweep, fake: Any) -> None:
    shows(fake, sweep, "CANCELLED", "COMPLETED", "RUNNING")
    sweep.events()
    shows(fake, sweep, "CANCELLED", "COMPLETED", "CANCELLED")
    with pytest.raises(KeyboardInterrupt):
        sweep.events()


def test_jobs_cancel_stops_those_who_follow(sweep: Sweep, fake: Any) -> None:
    shows(fake, sweep, "RUNNING", "PENDING", "COMPLETED")
    assert manage.cancel(sweep.store, "another") == {}
    assert manage.cancel(sweep.store, "study") == {sweep.batches()[0]: 2}
    assert fake.calls("scancel") == ["1"]
    with pytest.raises(KeyboardInterrupt):
        sweep.events()


def test_a_second_sweep_follows_the_jobs_of_the_first(
    sweep: Sweep, fake: Any, todo: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    shows(fake, sweep, "PENDING", "RUNNING", "COMPLETED")
    second = Sweep(todo, sweep.store.root, monkeypatch)
    assert "2 units are in the queue already" in second.told()
    assert len(fake.calls("sbatch")) == 2  # the third unit is in no queue any more
    assert {f.unit.name for f in second.pool.followed.values()} == {u.name for u in todo}
    assert len(second.batches()) == 2


def test_what_jobs_in_the_queue_hold_is_followed_all_the_same(
    sweep: Sweep, fake: Any, todo: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a second sweep would take the end of a job that was cancelled for a unit that nobody does."""
    shows(fake, sweep, "RUNNING", "RUNNING", "COMPLETED")
    monkeypatch.setattr(pool.time, "sleep", lambda seconds: None)
    second = SlurmPool(slurm(), sweep.store, EXEC, todo, "study")
    assert [second.follows(unit) for unit in todo] == [True, True, False]
    batches.mark_cancelled([batches.root(sweep.store) / sweep.batches()[0]])
    assert not SlurmPool(slurm(), sweep.store, EXEC, todo, "study").follows(todo[0])
    fake.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    assert not SlurmPool(slurm(), sweep.store, EXEC, todo, "study").follows(todo[0])


def test_slurm_is_not_asked_of_what_others_hold(
    todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(pool.time, "sleep", slept.append)
    idle = SlurmPool(slurm(), Store(tmp_path / "s"), EXEC, todo, "study")
    assert list(idle.events(0.5)) == []
    assert slept == [0.5]
    assert fake.calls("squeue") == []


def test_arrays_are_cut_where_the_cluster_says(
    todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.says("scontrol", "MaxArraySize = 2\n")
    sweep = Sweep(todo, tmp_path / "s", monkeypatch)
    sweep.events()
    texts = [(batches.root(sweep.store) / n / "job.sh").read_text() for n in sweep.batches()]
    assert sorted(line for t in texts for line in t.splitlines() if "--array" in line) == [
        "#SBATCH --array=0-0", "#SBATCH --array=0-1",
    ]  # fmt: skip


def test_a_refusal_undoes_what_was_submitted(
    todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second array is refused: the first is cancelled, and nothing of the second stays."""
    fake.says("scontrol", "MaxArraySize = 2\n")
    (fake.root / "sbatch").write_text(
        f"#!/bin/sh\n[ -e {fake.root}/one ] && echo 'sbatch: error: no' >&2 && exit 1\n"
        f"touch {fake.root}/one; echo 77\n"
    )
    sweep = Sweep(todo, tmp_path / "s", monkeypatch)
    with pytest.raises(Refused, match="^no$"):
        sweep.events()
    assert fake.calls("scancel") == ["77"]
    kept = [p for p in batches.root(sweep.store).iterdir() if (p / "job.sh").exists()]
    assert [batches.cancelled(p) for p in kept] == [True]


def test_a_site_that_takes_two_jobs_at_a_time(
    todo: list[Unit], tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halved until it fits; the rest waits for a place."""
    (fake.root / "sbatch").write_text(
        "#!/bin/sh\nn=$(grep -o 'array=0-[0-9]*' $2 | grep -o '[0-9]*$')\n"
        f"have=$(cat {fake.root}/have 2>/dev/null || echo 0); have=$((have + n + 1))\n"
        "[ $have -gt 2 ] && echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2 && exit 1\n"
        f"echo $have > {fake.root}/have; echo $have\n"
    )
    sweep = Sweep(todo, tmp_path / "s", monkeypatch)
    assert "1 units wait until the site takes more jobs: QOSMaxSubmitJobPerUserLimit" in sweep.told()  # fmt: skip
    assert len(sweep.pool.waiting) == 1
    fake.says("squeue", "".join(f"{i + 1}|0|RUNNING|None|{n}\n" for i, n in enumerate(sweep.batches())))  # fmt: skip
    assert sweep.events() == []  # it is still full: not even asked
    done = next(f.unit for f in sweep.pool.followed.values())
    sweep.finish(done)
    (fake.root / "have").write_text("1")
    assert [e["event"] for _, e in sweep.events()] == ["done"]
    assert sweep.pool.waiting == {}


def test_gc_clears_what_ended_with_all_it_was_to_do(
    sweep: Sweep, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch per kind of unit here; whatever is not known to be over stays."""
    fake.says("squeue", "")
    sweep.events()
    root, names = batches.root(sweep.store), sweep.batches()

    def found(later: float = 3601.0) -> list[str]:
        now = max(p.stat().st_mtime for p in root.rglob("*"))
        monkeypatch.setattr(manage.time, "time", lambda: now + later)
        return [f.path.name for f in manage.ended(sweep.store)]

    for unit in sweep.todo:
        assert found() == []
        sweep.finish(unit)
    asked = len(fake.calls("squeue"))
    assert found(3599.0) == []
    assert len(fake.calls("squeue")) == asked  # nothing to ask for
    assert found() == sorted(names)
    fake.says("squeue", f"1|0|COMPLETED|None|{names[0]}\n")  # it is still remembered
    assert found() == sorted(names[1:])
    fake.says("squeue", "")
    point = next(sweep.store.root.glob("runs/*/points/*"))
    point.unlink()
    assert len(found()) == len(names) - 1
    write(
        point.parent.parent / "result.json", '{"status": "diverged"}'
    )  # there never will be a point
    assert found() == sorted(names)
    fake.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n")
    with pytest.raises(Silent, match="Unable to contact"):
        found()
    runs = CliRunner().invoke(app, ["runs", "gc", str(sweep.store.root)])
    assert (runs.exit_code, sorted(sweep.batches())) == (0, sorted(names))
    assert "folders of Slurm jobs are kept: slurm_load_jobs error: Unable" in runs.stderr
    (fake.root / "squeue.err").unlink()
    runs = CliRunner().invoke(app, ["runs", "gc", str(sweep.store.root)])
    assert "jobs that have ended, with all they were to do in the store" in runs.stdout
    assert sweep.batches() == []
