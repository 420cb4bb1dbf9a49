"""What a look at a store says, from its files alone; and a real sweep, watched from another process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from precisionlaws import claims
from precisionlaws.cli import app
from precisionlaws.config import ConfigError
from precisionlaws.store import Store, publish
from precisionlaws.sweep.live import Screen
from precisionlaws.sweep.points import Study, study
from precisionlaws.sweep.recorded import plans, record
from precisionlaws.sweep.schedule import units
from precisionlaws.sweep.watch import Watch, summary, table

COMMAND = [sys.executable, "-P", "-m", "precisionlaws.cli"]


@pytest.fixture
def plan(tiny: list[str], tmp_path: Path) -> Study:
    """Two trunks (16 and 4 bits) of three runs; two PTQ points on each of the first three."""
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "2560,5120,10240"}
    blocks = [settings | {"ptq": "rtn", "ptq.bits": "3,4"}, settings | {"quant.weights.bits": "4"}]
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"points": blocks}))
    return study(str(path))


@pytest.fixture
def store(plan: Study, tmp_path: Path) -> Store:
    store = Store(tmp_path / "s")
    record(store, plan.name, ["seed=0"], plan.points)
    return store


def unit_of(plan: Study, label: str) -> Any:
    return next(u for u in units(plan.points) if f"-{label}-" in u.name)


def finish(store: Store, plan: Study, run: str, loss: float | None = 2.5, points: int = 9) -> None:
    row = {"run_id": run, "loss": loss, "status": "finished" if loss else "diverged"}
    publish(store.result(run), row | {"eval_id": "final"})
    for e in [p.eval_id for p in plan.points if p.run_id == run and p.eval_id != "final"][:points]:
        publish(store.point(run, e), row | {"eval_id": e})


def claim(store: Store, unit: str, **more: Any) -> Path:
    note = {"host": "elsewhere", "pid": 7, "id": "x", "beat": 3, "time": time.time()} | more
    path = store.claim(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(note))
    return path


def runs(plan: Study, label: str) -> list[str]:
    return [r for r in dict.fromkeys(p.run_id for p in plan.points) if f"-{label}-" in r]


def test_a_plan_is_kept_once_and_adds_up(store: Store, plan: Study) -> None:
    record(store, plan.name, ["seed=0"], plan.points)
    (one,) = plans(store)
    assert (one.name, one.overrides) == ("mine", ("seed=0",))
    assert {j.run: len(j.points) for j in one.jobs} == {r: 2 for r in runs(plan, "fp")} | {r: 0 for r in runs(plan, "w4")}  # fmt: skip
    (row,) = Watch(store).look().rows
    assert row.states == {"done": 0, "running": 0, "stalled": 0, "failed": 0, "to go": 6}
    assert row.points == (0, 12)


def test_every_run_is_in_one_state(store: Store, plan: Study) -> None:
    fp, w4 = runs(plan, "fp"), runs(plan, "w4")
    finish(store, plan, fp[0])
    finish(store, plan, fp[1], points=1)  # one point is owed
    finish(store, plan, w4[0], loss=None)
    (store.run(w4[1])).mkdir()
    (store.run(w4[1]) / "error.json").write_text(json.dumps({"error": "ValueError: no", "traceback": ""}))  # fmt: skip
    claim(store, unit_of(plan, "fp").name)  # it has not said yet where it is
    look = Watch(store).look()
    assert look.rows[0].states == {"done": 2, "running": 1, "stalled": 0, "failed": 1, "to go": 2}
    assert look.rows[0].points == (3 + 2 + 1, 12)
    assert look.errors == [(w4[1], "ValueError: no")]
    assert dict(look.losses) == {fp[0]: 2.5, fp[1]: 2.5, w4[0]: None}
    assert not look.over
    assert look.failed


def test_points_that_another_study_made_are_not_of_this_one(store: Store, plan: Study) -> None:
    run = runs(plan, "fp")[0]
    finish(store, plan, run)
    publish(store.point(run, "gptq-of-another-study"), {"run_id": run, "loss": 2.5})
    (row,) = Watch(store, study="mine").look().rows
    assert row.points == (3, 12)


def test_diverged_runs_owe_no_points(store: Store, plan: Study) -> None:
    for run in runs(plan, "fp"):
        finish(store, plan, run, loss=None, points=0)
    for run in runs(plan, "w4"):
        finish(store, plan, run)
    look = Watch(store).look()
    assert look.over
    assert look.rows[0].states["done"] == 6
    assert look.rows[0].left == 0


def test_pace_and_time_left_are_of_those_who_work(store: Store, plan: Study) -> None:
    """Half of the work at the speed of the plan's own model takes half of its time; twice the speed, a quarter."""
    unit = unit_of(plan, "w4")
    for run in runs(plan, "fp"):
        finish(store, plan, run)
    job = next(j for j in plans(store)[0].jobs if j.unit == unit.name)
    pace = 1 / job.second_per_token

    def look(speed: float, step: int) -> Any:
        note = {"run": runs(plan, "w4")[0], "step": step, "steps": 20, "loss": 3.0}
        claim(store, unit.name, **note, tokens=int(100 * speed * pace), seconds=100.0)
        return Watch(store).look().rows[0]

    start = look(1, 0)
    assert start.pace == pytest.approx(pace, rel=1e-3)
    assert start.left == pytest.approx(unit.seconds, rel=1e-3)
    assert look(2, 0).left == pytest.approx(unit.seconds / 2, rel=1e-3)
    assert start.left - look(1, 10).left == pytest.approx(10 * job.step_seconds, rel=1e-3)
    claim(store, unit.name, run=runs(plan, "w4")[0], step=1, steps=20, tokens=10, seconds=1.0)
    assert Watch(store).look().rows[0].left != start.left  # too early to say
    assert "?" in table(Watch(store).look())[1]


def test_what_a_pack_has_done_counts_for_every_member(store: Store, plan: Study) -> None:
    """Two trunks in one pack: both leases name the run that leads."""
    fp, w4 = unit_of(plan, "fp"), unit_of(plan, "w4")
    jobs = {j.unit: j for j in plans(store)[0].jobs}

    def look(step: int) -> Any:
        note = {"run": runs(plan, "w4")[0], "step": step, "steps": 20, "loss": 3.0, "tokens": 10**6}
        for unit in (fp, w4):
            claim(store, unit.name, **note, seconds=100.0)
        return Watch(store).look().rows[0]

    start, later = look(0), look(10)
    assert start.states["running"] == 2
    assert start.pace == pytest.approx(2e4)
    speed = start.pace * jobs[w4.name].second_per_token
    assert start.left == pytest.approx((fp.seconds + w4.seconds) / speed, rel=0.02)
    gained = 10 * (jobs[fp.name].step_seconds + jobs[w4.name].step_seconds)
    assert start.left - later.left == pytest.approx(gained / speed, rel=1e-3)


def test_a_silent_lease_is_stalled_by_its_content(
    store: Store, plan: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    unit, run = unit_of(plan, "w4").name, runs(plan, "w4")[0]
    watch = Watch(store)
    claim(store, unit, run=run)
    assert watch.look().rows[0].states["running"] == 1
    clock[0] += claims.LEASE_SECONDS + 1
    assert watch.look().rows[0].states["stalled"] == 1
    claim(store, unit, run=run, beat=4)
    assert watch.look().rows[0].states["running"] == 1


def test_one_look_knows_the_long_dead(store: Store, plan: Study) -> None:
    unit, run = unit_of(plan, "w4").name, runs(plan, "w4")[0]
    claim(store, unit, run=run, time=time.time() - claims.LOST_SECONDS - 1)
    assert Watch(store).look().rows[0].states["stalled"] == 1
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    claim(store, unit, run=run, host=socket.gethostname(), pid=gone.pid)
    look = Watch(store).look()
    assert look.rows[0].states["stalled"] == 1
    assert f"stalled  {run}" in "\n".join(table(look))
    claim(store, unit, run=run, host=socket.gethostname(), pid=os.getpid())
    assert Watch(store).look().rows[0].states["running"] == 1


def test_a_removed_run_is_to_go_again(store: Store, plan: Study) -> None:
    watch, run = Watch(store), runs(plan, "w4")[0]
    finish(store, plan, run)
    assert watch.look().rows[0].states["done"] == 1
    store.result(run).unlink()
    store.run(run).rmdir()
    look = watch.look()
    assert look.rows[0].states["done"] == 0
    assert look.losses == []


def test_runs_of_no_study_are_seen_too(store: Store, plan: Study, tmp_path: Path) -> None:
    publish(store.result("mine-1"), {"run_id": "mine-1", "loss": 3.0, "status": "finished"})
    look = Watch(store).look()
    assert [r.study for r in look.rows] == ["mine seed=0", "other runs"]
    assert summary(look.rows[1]) == "other runs: 1 of 1 runs done, 1 points"
    assert [r.study for r in Watch(store, "mine").look().rows] == ["mine seed=0"]
    with pytest.raises(ConfigError, match="no study 'mien' was started .*; did you mean 'mine'?"):
        Watch(store, "mien").look()
    alone = Store(tmp_path / "alone")
    publish(alone.result("r"), {"run_id": "r", "loss": 3.0})
    assert Watch(alone).look().over


def test_the_command(store: Store, plan: Study, tmp_path: Path) -> None:
    def jobs(*more: str) -> Any:
        return CliRunner().invoke(app, ["jobs", "watch", str(store.root), *more])

    finish(store, plan, runs(plan, "fp")[0], loss=2.123456)
    text = jobs("--once").stdout
    assert "study        done  running  stalled  failed  to go  points  tokens/s  left" in text
    assert f"  {runs(plan, 'fp')[0]}  2.1235" in text
    assert json.loads(jobs("--json").stdout)["rows"][0]["states"]["to go"] == 5
    assert jobs("--once").exit_code == 0
    (store.run("x")).mkdir()
    (store.run("x") / "error.json").write_text('{"error": "lost"}')
    assert jobs("--once").exit_code == 1
    bad = CliRunner().invoke(app, ["jobs", "watch", str(tmp_path / "none"), "--once"])
    assert isinstance(bad.exception, ConfigError)
    assert "is not a store: it is not a folder" in str(bad.exception)


def test_a_table_never_wraps_or_scrolls(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 5)))
    screen = Screen(sys.stdout)
    screen.draw(["x" * 100] * 10)
    screen.draw(["short"])
    lines = capsys.readouterr().out.split("\n")
    assert lines[:4] == ["x" * 19] * 3 + ["... and 7 more line"]
    assert lines[4] == "\x1b[4F\x1b[Jshort"


@pytest.mark.slow
def test_a_real_sweep_is_followed_to_its_end(tiny: list[str], tmp_path: Path, sweeps: Any) -> None:
    """Watched from another process, in plain lines, from before its first result until nothing is left."""
    settings = dict(t.split("=", 1) for t in tiny) | {"tokens": "128000,256000", "ptq": "rtn"}
    (tmp_path / "long.yaml").write_text(json.dumps({"points": [settings]}))
    store = tmp_path / "s"
    sweep = sweeps.begin(tmp_path / "long.yaml", store)
    worker = sweeps.holder(sweep, store)
    os.kill(worker, signal.SIGSTOP)  # until the other is there
    try:
        (note,) = [c.note for c in Watch(Store(store)).look().claims]
        watch = sweeps.command("jobs", "watch", store, "--every", "0.2")
        first = watch.stdout.readline()
    finally:
        os.kill(worker, signal.SIGCONT)
    sweeps.end(sweep)
    out = first + sweeps.end(watch)
    assert note["tokens"] > 0
    assert 0 < note["loss"] < 10
    assert "long: 0 of 2 runs done" in out
    assert "long      2        0        0       0      0     4/4" in out
    assert "\x1b" not in out
