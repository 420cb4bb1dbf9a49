"""A real Slurm and whatever it does to jobs: every sweep ends complete, with the rows of an undisturbed one.

Scenes run side by side, as they wait for Slurm longer than they compute. Workers stop at a gate, a step that they
do not pass, until what is to befall them has befallen them: at training, on a machine of any speed.
"""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from precisionlaws.store import load
from tests.sweep.slurm.stage import SITE, World, cli, run, same

pytestmark = pytest.mark.slurm

TWO = ("launcher.units_per_job=2", "launcher.workers=2")  # units at once in one job


def time_is_up(world: World) -> None:
    """One job is told in time, saves and is queued again; the other does not hear, and ends as TIMEOUT."""
    scene = world.scene("time", world.part, "launcher.partition=short", "launcher.signal=10", "exec.pack=1")  # fmt: skip
    scene.gate(150)
    scene.begin()
    scene.at(150, 2)
    array, ((hears, deaf),) = scene.array(), scene.tasks()
    worker = scene.leases()[deaf]["pid"]
    for pid in (worker, parent(worker)):
        os.kill(pid, signal.SIGSTOP)
    for job, seconds in ((f"{array}_0", 40), (f"{array}_1", 1)):  # Slurm looks every half minute
        run("scontrol", "update", f"JobId={job}", f"EndTime=now+{seconds}")
    scene.until(lambda: f"job {array}_0 is queued again" in scene.logs())
    scene.until(lambda: f"job {array}_1 ended as TIMEOUT and is submitted again" in scene.told())
    scene.again(2, 2)
    scene.gate(None)
    scene.end()
    world.same(scene)
    assert scene.starts()[hears] == [0, 150]  # nothing is repeated
    assert scene.starts()[deaf][1] >= 100


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def a_node_that_fails_and_one_whose_daemon_is_killed(world: World) -> None:
    """The first loses its processes at once. On the other they work on while their job is queued again."""
    scene = world.scene("frail", world.one, "launcher.partition=frail", "exec.pack=1")
    scene.gate(150)
    scene.begin()
    scene.at(150, 1)
    world.slurm.crash("n4")
    scene.until(lambda: set(scene.states().values()) & {"PENDING", "NODE_FAIL"})
    world.slurm.node("n4")
    scene.again(2, 1)
    scene.gate(250)
    scene.at(250, 1)
    world.slurm.kill("n4")
    scene.until(lambda: set(scene.states().values()) & {"PENDING", "NODE_FAIL"})
    assert [*scene.training().values()] == [250]  # it works on
    scene.gate(None)
    world.slurm.node("n4")
    scene.end()
    world.same(scene)
    ((first, second, *later),) = scene.starts().values()
    assert (first, second) == (0, 100)  # less than an interval is repeated
    assert all(step >= 200 for step in later)


def preempted_with_grace_with_and_without_a_signal_of_the_users(world: World) -> None:
    """With the signal it leaves within its grace, which counts as completed: it queues itself again. Without it,
    Slurm says so by SIGTERM."""
    scene = world.scene("polite", world.part, *TWO, "launcher.partition=polite", "exec.pack=1")
    scene.gate(150)
    scene.begin()
    for wanted, name, step in ((True, "SIGUSR2", 150), (False, "SIGTERM", 250)):
        scene.at(step, 2)
        world.slurm.user_signal(wanted)
        world.slurm.preempt("n3")
        scene.until(lambda name=name: f"{name}: saving" in scene.logs())
        scene.until(lambda: not scene.training())
        scene.gate(step + 100)
    scene.again(3, 2)
    scene.gate(None)
    scene.end()
    world.same(scene)
    assert "is queued again" in scene.logs()
    assert "submitted again" not in scene.told()
    assert [*scene.starts().values()] == [[0, 150, 250]] * 2  # nothing is repeated


def requeued_cancelled_preempted_and_the_submitter_killed(world: World) -> None:
    """Each of three jobs is stopped in its own way; the sweep is started again meanwhile."""
    scene = world.scene("rude", world.whole, "launcher.partition=rude", "exec.pack=1")
    scene.gate(150)
    scene.begin()
    scene.at(150, 3)
    scene.kill()
    scene.begin()
    scene.until(lambda: "3 units are in the queue already" in scene.told())
    array = scene.array()
    run("scontrol", "requeue", f"{array}_0")
    run("scancel", f"{array}_1")
    scene.until(lambda: [*scene.states().values()].count("RUNNING") == 1)
    world.slurm.preempt("n2")
    scene.again(2, 3)
    scene.gate(None)
    scene.end()
    world.same(scene)
    assert f"job {array}_1 ended as CANCELLED and is submitted again" in scene.told()
    assert scene.told().count("submitted array") == 1  # of the cancelled one
    assert all(step >= 100 for s in scene.starts().values() for step in s[1:])


def the_demo_through_arrays_is_the_local_one_bit_for_bit(world: World) -> None:
    """Packs of two, two units in a job, in two workers; PTQ, activations, KV cache."""
    small = ("size=7k", "tokens=31.25k,62.5k", "seed=0", "data.eval_tokens=4096", "exec.pack=2")
    scene = world.scene("demo", "demo", *small, *TWO)
    scene.begin()
    scene.end()
    assert "submitted array" in scene.told()
    assert len(list(scene.store.glob("jobs/*/*.log"))) == 2
    near = world.folder / "near"
    cli("sweep", "demo", "--store", near, *small)
    same(scene.store, near)
    assert len(load(scene.store)) == 24


def scripts_submitted_by_hand_are_followed(world: World) -> None:
    options = (*TWO, "exec.pack=1")
    scene = world.scene("hand", world.part, *options)
    asked = (world.part, "--store", scene.store, "launcher=slurm", "launcher.poll=0.5", *options)
    dry = cli("sweep", *asked, "--dry-run")
    (line,) = cli("jobs", "script", *asked).splitlines()
    assert Path(line.split()[1]).read_text() in dry  # to the letter
    run(*line.split())
    scene.begin()
    scene.end()
    assert "are in the queue already" in scene.told()
    assert "submitted array" not in scene.told()
    world.same(scene)


def forty_units_where_arrays_hold_eleven(world: World) -> None:
    """In a partition that is down: what is submitted, seen and cancelled, and followed by whoever asks."""
    study = world.written("forty", {"seed": "range(40)", "tokens": "64k"})
    scene = world.scene("forty", study, "launcher.partition=closed", "exec.pack=1")
    scene.begin()
    scene.until(lambda: len(scene.states()) == 40)
    assert len({t.split("_")[0] for t in scene.states()}) == 4
    assert max(int(t.split("_")[1]) for t in scene.states()) == 10
    units = [u for array in scene.tasks() for u in array]
    assert len(set(units)) == 40 == len(units)
    seen = ("jobs", "watch", scene.store, "--once")
    scene.until(lambda: "40 pending (PartitionDown)" in cli(*seen))
    assert "cancelled 40 jobs in 4 arrays" in cli("jobs", "cancel", scene.store)
    scene.end(130)
    assert "cancelled" in scene.told()


def a_refusal_is_in_slurms_words_and_leaves_nothing(world: World) -> None:
    scene = world.scene("refused", world.part, "launcher.partition=nowhere")
    scene.begin()
    scene.end(1)
    assert "invalid partition specified: nowhere" in scene.told()
    assert not [p for p in scene.store.rglob("*") if p.is_file()]
    shown = set(run("squeue", "-h", "--states=all", "-o", "%j").split())
    assert shown <= {p.name for p in world.folder.glob("*/jobs/*")} | {"first.sh"}


SCENES = (  # the longest first
    time_is_up,
    a_node_that_fails_and_one_whose_daemon_is_killed,
    preempted_with_grace_with_and_without_a_signal_of_the_users,
    requeued_cancelled_preempted_and_the_submitter_killed,
    the_demo_through_arrays_is_the_local_one_bit_for_bit,
    scripts_submitted_by_hand_are_followed,
    forty_units_where_arrays_hold_eleven,
    a_refusal_is_in_slurms_words_and_leaves_nothing,
)


@pytest.fixture(scope="session")
def world(slurm: Any, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Runs that take seconds: three trunks of two runs, PTQ on the unquantized ones; two of the trunks, one."""
    settings = {
        "data": "text", "data.path": str(text_file), "data.context": "32", "data.eval_tokens": "1024",
        "size": "7k", "batch_tokens": "128", "lr_schedule.warmup": "3", "tokens": "51.2k,64k",
    }  # fmt: skip
    made = World(slurm, tmp_path_factory.mktemp("slurm"), settings)
    (made.folder / "site").mkdir()
    (made.folder / "site" / "sitecustomize.py").write_text(SITE)
    quantized = {"quant.weights.bits": "3,4"}
    made.whole = made.written("whole", {"ptq": "rtn", "ptq.bits": "3,4"}, quantized)
    made.part = made.written("part", quantized)
    made.one = made.written("one", {"quant.weights.bits": "3"})
    return made


@pytest.fixture(scope="session")
def played(world: World, request: pytest.FixtureRequest) -> Iterator[dict[str, "Future[None]"]]:
    """Those that are asked for, all begun. Slurm's daemons die with the thread that began them: these last."""
    asked = {getattr(i, "callspec", None) and i.callspec.params.get("scene") for i in request.session.items}  # type: ignore[attr-defined]  # fmt: skip
    with ThreadPoolExecutor(6) as pool:
        world.smooth = pool.submit(world.undisturbed)
        yield {s.__name__: pool.submit(s, world) for s in SCENES if s.__name__ in asked}
        for process in (p for s in world.scenes for p in s.processes if p.poll() is None):
            with process:  # of a scene that failed
                process.kill()


@pytest.mark.parametrize("scene", [s.__name__ for s in SCENES])
def test_whatever_slurm_does_sweeps_end_complete(scene: str, played: dict[str, "Future[None]"]) -> None:  # fmt: skip
    played[scene].result()
