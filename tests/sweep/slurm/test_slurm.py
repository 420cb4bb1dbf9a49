"""A real Slurm and whatever it does to jobs: every sweep ends complete, with the rows of an undisturbed one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from precisionlaws.store import Store, load
from precisionlaws.sweep.upkeep import verify

pytestmark = pytest.mark.slurm

SLURM = ("launcher=slurm", "launcher.poll=0.5", "exec.pack=1")
TWO = (*SLURM, "launcher.units_per_job=2", "launcher.workers=2")  # units at once in one job
HELD: dict[str, float] = {}  # job -> since when the queue was seen to hold it back
# Workers save every half second instead of every half minute: what is lost at a crash is an interval.
SAVING = """
if "precisionlaws.sweep.worker" in sys.orig_argv:
    import precisionlaws.training.unit
    precisionlaws.training.unit.SAVE_SECONDS = 0.5
"""


@pytest.fixture(scope="session")
def settings(text_file: Path) -> dict[str, str]:
    """Of runs that take seconds."""
    return {
        "data": "text", "data.path": str(text_file), "data.context": "32", "data.eval_tokens": "1024",
        "size": "7k", "batch_tokens": "128", "lr_schedule.warmup": "3", "tokens": "64k,128k",
    }  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="session")
def whole(settings: dict[str, str], folder: Path) -> Path:
    """Three trunks of two runs, PTQ on the unquantized ones."""
    blocks = [settings | {"ptq": "rtn", "ptq.bits": "3,4"}, settings | {"quant.weights.bits": "3,4"}]  # fmt: skip
    return written(folder / "whole.yaml", blocks)


@pytest.fixture(scope="session")
def part(settings: dict[str, str], folder: Path) -> Path:
    """Two of the trunks."""
    return written(folder / "part.yaml", [settings | {"quant.weights.bits": "3,4"}])


def written(path: Path, blocks: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps({"points": blocks}))
    return path


@pytest.fixture(scope="session")
def smooth(whole: Path, folder: Path) -> Path:
    """The store of a sweep on this machine that nobody disturbed."""
    store = folder / "smooth"
    cli("sweep", whole, "--store", store, "exec.pack=1")
    return store


@pytest.fixture
def disturbed(sweeps: Any, slurm: Any) -> Any:
    """Sweeps whose jobs save often, on a Slurm with nothing in its queue."""
    with (sweeps.site / "sitecustomize.py").open("a") as site:
        site.write(SAVING)
    yield sweeps
    run("scancel", "--signal=KILL", "-u", os.environ.get("USER", "root"))
    run("scancel", "-u", os.environ.get("USER", "root"))


def run(*command: object, code: int | None = 0) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=os.environ, check=False
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def cli(*arguments: object) -> str:
    return run(sys.executable, "-P", "-m", "precisionlaws.cli", *arguments)


def until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> Any:
    """Wait for it while the sweep runs. A requeued job would wait for two minutes: here it need not."""
    end = time.monotonic() + seconds
    while not (found := true()):
        told = "" if process.poll() is None else "".join(map(str, process.communicate()))
        assert process.returncode is None, f"the sweep ended with {process.returncode}: {told}"
        assert time.monotonic() < end, f"waited in vain: {run('squeue', '-r', '--states=all')}"
        hurry()
        time.sleep(0.05)
    return found


def hurry() -> None:
    """Not at once: a node refuses a job whose former start it has not yet forgotten."""
    lines = run("squeue", "-hr", "-t", "PENDING", "-o", "%i %r").splitlines()
    held = {line.split()[0] for line in lines if line.endswith(" BeginTime")}
    for job in HELD.keys() - held:
        del HELD[job]
    for job in held:
        if time.monotonic() - HELD.setdefault(job, time.monotonic()) > 4:
            run("scontrol", "update", f"JobId={job}", "StartTime=now", code=None)


def ended(process: subprocess.Popen[str]) -> None:
    """The sweep is over and everything was computed."""
    end = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < end:
        hurry()
        time.sleep(0.2)
    assert process.poll() == 0, "".join(process.communicate())


def states() -> dict[str, str]:
    """Task -> state."""
    lines = run("squeue", "-hr", "--states=all", "-o", "%F_%K %T").splitlines()
    return dict(line.split() for line in lines)


def training(store: Path) -> dict[str, int]:
    """Unit -> step, of leases that are held."""
    found = {}
    for path in store.glob("claims/*.json"):
        try:
            found[path.stem] = json.loads(path.read_text())["step"]
        except (OSError, ValueError, KeyError):
            continue
    return {unit: step for unit, step in found.items() if step > 0}


@contextmanager
def held(store: Path, *units: str) -> Iterator[None]:
    """Workers that come no further, so that what they are told finds them at training on a machine of any speed."""
    notes = {p.stem: json.loads(p.read_text()) for p in store.glob("claims/*.json")}
    pids = [note["pid"] for unit, note in notes.items() if not units or unit in units]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def saved(store: Path) -> dict[str, int]:
    """Trunk -> the last step that a checkpoint of it holds, where its shorter run has not yet begun to decay."""
    found: dict[str, int] = {}
    for path in store.glob("trunks/*/step-*.safetensors"):
        step = int(path.stem.removeprefix("step-"))
        found[path.parent.name] = max(found.get(path.parent.name, 0), step)
    return found


def went_on(store: Path) -> dict[str, list[int]]:
    """Unit -> the step with which each start of its job began, by the job's own log."""
    found: dict[str, list[int]] = {}
    for log in store.glob("jobs/*/*.log"):
        seen: set[str] = set()
        for line in log.read_text().splitlines():
            if " units on " in line:
                seen = set()
            match = re.search(r" (\S+): \S+ step (\d+)/", line)
            if match and match[1] not in seen:
                seen.add(match[1])
                found.setdefault(match[1], []).append(int(match[2]))
    return found


def logs(store: Path) -> str:
    return "".join(p.read_text() for p in sorted(store.glob("jobs/*/*.log")))


def same(store: Path, smooth: Path) -> None:
    """Bit for bit, of every run that it has; nothing is damaged or left over."""
    mine, theirs = (load(s).drop(columns="seconds") for s in (store, smooth))
    theirs = theirs.loc[theirs.run_id.isin(mine.run_id)].reset_index(drop=True)
    known = [c for c in theirs if theirs[c].notna().any()]  # no columns of PTQ where there is none
    mine, theirs = (
        mine.loc[:, known],
        theirs.loc[:, known],
    )  # P_post is whole where there is no other
    pd.testing.assert_frame_equal(mine, theirs, check_exact=True, check_dtype=False)
    assert not list(verify(Store(store)))
    assert not [p for p in (store / "claims").iterdir() if not p.name.startswith(".")]


def test_the_demo_through_arrays_is_the_local_one_bit_for_bit(
    slurm: Any, tmp_path: Path, sweeps: Any
) -> None:
    """Packs of two, two units in a job, in two workers; PTQ, activations, KV cache."""
    small = ("size=7k", "tokens=62.5k,125k", "seed=0", "data.eval_tokens=4096", "exec.pack=2")
    jobs = ("launcher=slurm", "launcher.poll=0.5", "launcher.units_per_job=2", "launcher.workers=2")
    process = sweeps.command("sweep", "demo", "--store", tmp_path / "far", *small, *jobs)
    told = sweeps.end(process)
    assert "submitted array" in told
    assert len(list(tmp_path.glob("far/jobs/*/*.log"))) == 2
    cli("sweep", "demo", "--store", tmp_path / "near", *small)
    same(tmp_path / "far", tmp_path / "near")
    assert len(load(tmp_path / "far")) == 24


def test_requeued_cancelled_preempted_and_the_submitter_killed(
    whole: Path, smooth: Path, tmp_path: Path, disturbed: Any
) -> None:
    """Each of three jobs is stopped in its own way while it trains; the sweep is started again meanwhile."""
    store = tmp_path / "s"
    first = disturbed.begin(whole, store, *SLURM)
    until(lambda: len(states()) == 3, first)
    first.kill()
    second = disturbed.begin(whole, store, *SLURM)
    until(lambda: len(training(store)) == 3, second)
    job = min(states()).split("_")[0]
    before = saved(store)
    run("scontrol", "requeue", f"{job}_0")
    run("scancel", f"{job}_1")
    third = json.loads(next(store.glob("jobs/*/tasks.jsonl")).read_text().splitlines()[2])[0]
    with held(store, third["unit"]):
        run("sbatch", "--partition=first", "--exclusive", "--output=/dev/null", "--wrap=true")
        until(lambda: states()[f"{job}_2"] != "RUNNING", second)
    ended(second)
    same(store, smooth)
    told = disturbed.end(second)
    assert "are in the queue already" in told  # one array, followed by both
    assert f"job {job}_1 ended as CANCELLED and is submitted again" in told
    assert told.count("submitted array") == 1  # of the cancelled one
    starts = went_on(store)
    assert all(len(s) >= 2 for s in starts.values()), starts
    assert all(starts[u][1] >= step for u, step in before.items()), (starts, before)


def test_preempted_with_grace_with_and_without_a_signal_of_the_users(
    part: Path, smooth: Path, tmp_path: Path, disturbed: Any, slurm: Any
) -> None:
    """With the signal it leaves within its grace, which counts as completed: it queues itself again. Without it,
    Slurm does so."""
    store = tmp_path / "s"
    process = disturbed.begin(part, store, *TWO, "launcher.partition=polite")
    for wanted, name in ((True, "SIGUSR2"), (False, "SIGTERM")):
        slurm.user_signal(wanted)
        until(lambda: len(training(store)) == 2, process)
        with held(store):
            run("sbatch", "--partition=first", "--exclusive", "--output=/dev/null", "--wrap=true")
            until(lambda name=name: f"{name}: saving" in logs(store), process)
        until(lambda: not training(store), process)
    ended(process)
    same(store, smooth)
    assert "is queued again" in logs(store)
    assert "submitted again" not in disturbed.end(process)
    assert all(len(s) == 3 and s[1] > 0 for s in went_on(store).values())


def test_a_node_that_fails_and_one_whose_daemon_is_killed(
    part: Path, smooth: Path, tmp_path: Path, disturbed: Any, slurm: Any
) -> None:
    """The first loses its processes at once. On the other they work on while their job is queued again."""
    store = tmp_path / "s"
    process = disturbed.begin(part, store, *TWO, "launcher.partition=frail")
    for fail in (slurm.crash, slurm.kill):
        until(lambda: len(training(store)) == 2, process)
        before = saved(store)
        with held(store):
            fail("n2")
            until(lambda: set(states().values()) & {"PENDING", "NODE_FAIL"}, process)
        slurm.node("n2")
        until(lambda: "RUNNING" in states().values(), process)
        until(lambda before=before: all(went_on(store)[u][-1] >= s for u, s in before.items()), process)  # fmt: skip
    ended(process)
    same(store, smooth)


def test_a_job_whose_time_is_up(part: Path, smooth: Path, tmp_path: Path, disturbed: Any) -> None:
    """Its worker is held until Slurm says so, within its minute; then it saves, and has another minute."""
    store = tmp_path / "s"
    process = disturbed.begin(part, store, *TWO, "launcher.time=1", "launcher.signal=10")
    until(lambda: len(training(store)) == 2, process)
    with held(store):
        until(lambda: "SIGUSR2: saving" in logs(store), process)
    until(lambda: "is queued again" in logs(store), process)
    until(lambda: "PENDING" in states().values(), process)
    run("scontrol", "update", f"JobId={min(states()).split('_')[0]}", "TimeLimit=60")
    ended(process)
    same(store, smooth)
    assert all(s[1] > 0 for s in went_on(store).values())


def test_forty_units_where_arrays_hold_eleven(
    settings: dict[str, str], tmp_path: Path, sweeps: Any, slurm: Any
) -> None:
    """In a partition that is down: what is submitted, seen and cancelled, and followed by whoever asks."""
    more = settings | {"seed": "range(40)", "tokens": "64k"}
    study, store = written(tmp_path / "forty.yaml", [more]), tmp_path / "s"
    process = sweeps.begin(study, store, *SLURM, "launcher.partition=closed")
    until(lambda: len(states()) == 40, process)
    assert len({t.split("_")[0] for t in states()}) == 4
    assert max(int(t.split("_")[1]) for t in states()) == 10
    lines = [line for p in store.glob("jobs/*/tasks.jsonl") for line in p.read_text().splitlines()]
    assert len({json.loads(line)[0]["unit"] for line in lines}) == 40 == len(lines)
    assert "40 pending (PartitionDown)" in cli("jobs", "watch", store, "--once")
    assert "cancelled 40 jobs in 4 arrays" in cli("jobs", "cancel", store)
    assert "cancelled" in sweeps.end(process, 130)


def test_a_refusal_is_in_slurms_words_and_leaves_nothing(
    part: Path, tmp_path: Path, sweeps: Any, slurm: Any
) -> None:
    before = states()
    process = sweeps.begin(part, tmp_path / "s", *SLURM, "launcher.partition=nowhere")
    told = sweeps.end(process, 1)
    assert "invalid partition specified: nowhere" in told
    assert "Traceback" not in told
    assert states() == before
    assert not [p for p in (tmp_path / "s").rglob("*") if p.is_file()]


def test_scripts_submitted_by_hand_are_followed(
    part: Path, smooth: Path, tmp_path: Path, sweeps: Any, slurm: Any
) -> None:
    store = tmp_path / "s"
    dry = cli("sweep", part, "--store", store, *TWO, "--dry-run")
    (line,) = cli("jobs", "script", part, "--store", store, *TWO).splitlines()
    assert Path(line.split()[1]).read_text() in dry  # to the letter
    run(*line.split())
    process = sweeps.begin(part, store, *TWO)
    told = sweeps.end(process)
    assert "are in the queue already" in told
    assert "submitted array" not in told
    same(store, smooth)
