"""Sweeps among disturbances: nothing finished is lost, and the frame is that of an undisturbed sweep.

`kill -9` is benchmarks/bench_kill.py's.
"""

import errno
import itertools
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

from precisionlaws import claims, store
from precisionlaws.claims import Watcher, acquire
from precisionlaws.config import ConfigError, build, plain
from precisionlaws.ptq.application import method_of
from precisionlaws.run import Exec, RunConfig, compose, run_id, trunk_id
from precisionlaws.store import Store, load
from precisionlaws.sweep.upkeep import verify
from precisionlaws.sweep.worker import execute

COMMAND = [sys.executable, "-P", "-m", "precisionlaws.cli", "sweep"]
ALONE = "exec.pack=1"  # a unit for every trunk, to be taken over by others


@pytest.fixture
def unit(tiny: list[str]) -> dict[str, Any]:
    """One trunk of two runs with a PTQ point each, as a worker is told."""
    runs = [compose([*tiny, f"tokens={D}"]) for D in (1280, 2560)]
    return {
        "unit": trunk_id(runs[0]),
        "trunks": [trunk_id(runs[0])],
        "jobs": [{"run": plain(r), "ptqs": [plain(method_of("rtn", bits=3))]} for r in runs],
        "exec": plain(Exec(device="cpu", threads=1)),
    }


def work(unit: dict[str, Any], root: Path) -> dict[str, Any]:
    """What the worker says last."""
    told: list[dict[str, Any]] = []
    execute(unit, Store(root), told.append, lambda: False)
    return told[-1]


def frame(root: Path) -> pd.DataFrame:
    return load(root).drop(columns="seconds")


def same(root: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(frame(root), frame(other), check_exact=True)
    assert not [f for f in verify(Store(root)) if f.damaged]


def test_a_disk_with_room_for_one_more_file_than_before(
    unit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is full half-way through a file, each time another."""
    work(unit, tmp_path / "smooth")
    room, real = 0, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal room
        if room == 0:
            os.ftruncate(descriptor, 7)
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= 1
        real(descriptor)

    monkeypatch.setattr(store.os, "fsync", fsync)
    ends = []
    for files in range(1, 20):  # the first is the lease
        room = files
        last = work(unit, tmp_path / "rough")
        ends.append(last["event"])
        if last["event"] == "done":
            break
        assert (last["event"], last["fatal"], last["runs"]) == ("failed", True, []), last
        assert "No space left" in last["error"]
    assert ends[-1] == "done"
    assert len(ends) > 4
    same(tmp_path / "rough", tmp_path / "smooth")
    assert not list(tmp_path.rglob(".*"))  # no half of a file stays


@pytest.mark.parametrize("keep", [0, 7, 0.5, -1])
@pytest.mark.parametrize("what", ["trunk", "halfway"])
def test_a_truncated_checkpoint_is_named_and_costs_what_it_held(
    unit: dict[str, Any], tmp_path: Path, what: str, keep: float
) -> None:
    work(unit, tmp_path / "smooth")
    longer = name_of(unit, 1)
    for name in unit_files(tmp_path / "smooth", longer):
        name.unlink()
    paths = (tmp_path / "smooth").glob("trunks/*/step-*.safetensors")
    path = max(paths, key=lambda p: int(p.stem.removeprefix("step-")))
    if what == "halfway":
        path = path.rename(Store(tmp_path / "smooth").run(longer) / "resume.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    finished = frame(tmp_path / "smooth")
    failed = work(unit, tmp_path / "smooth")
    assert failed["event"] == "failed"
    assert failed["runs"] == [longer]
    assert f"checkpoint {path} cannot be read" in failed["error"]
    pd.testing.assert_frame_equal(frame(tmp_path / "smooth"), finished, check_exact=True)
    path.unlink()
    assert work(unit, tmp_path / "smooth")["event"] == "done"
    work(unit, tmp_path / "alone")
    same(tmp_path / "smooth", tmp_path / "alone")


def name_of(unit: dict[str, Any], i: int) -> str:
    return run_id(build(unit["jobs"][i]["run"], RunConfig))  # type: ignore[arg-type]


def unit_files(root: Path, run: str) -> list[Path]:
    """What a run has when its training is over."""
    folder = Store(root).run(run)
    return [
        *folder.glob("points/*"),
        *(folder / n for n in ("result.json", "checkpoint.safetensors", "held_out.npy", "metrics.jsonl")),
    ]  # fmt: skip


def test_half_written_files_in_every_folder_are_not_seen(
    unit: dict[str, Any], tmp_path: Path
) -> None:
    """As a kill leaves them, before and after the work."""
    work(unit, tmp_path / "smooth")
    rough = tmp_path / "rough"
    names = [name_of(unit, i) for i in (0, 1)]
    places = [Store(rough).result(names[0]), Store(rough).run(names[1]) / "config.yaml"]
    places += [Store(rough).run(n) / "points" / "rtn3-0.json" for n in names]
    places += [Store(rough).run(names[1]) / n for n in ("metrics.jsonl", "held_out.npy", "error.json")]  # fmt: skip
    places += [Store(rough).claim(unit["unit"]), Store(rough).study("s"), rough / "cache" / "points-1.parquet"]  # fmt: skip
    places += [Store(rough).trunk(unit["unit"]) / "step-16.safetensors"]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_name(f".{place.name}.abcd1234").write_text('{"schema": 1, "run')
    assert work(unit, rough)["event"] == "done"
    same(rough, tmp_path / "smooth")
    assert list(verify(Store(rough))) == []  # they are young: somebody may be writing
    for path in rough.rglob(".*"):
        os.utime(path, (0, 0))
    assert {f.path for f in verify(Store(rough))} == set(rough.rglob(".*"))


def test_half_of_a_result_or_a_lease(
    unit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a copy that was cut short leaves them: a result is named, a lease runs out."""
    work(unit, tmp_path / "s")
    path = Store(tmp_path / "s").result(name_of(unit, 0))
    whole = path.read_text()
    path.write_text(whole[:100])
    with pytest.raises(ConfigError, match=r"result\.json cannot be read"):
        load(tmp_path / "s")
    path.write_text(whole)
    lease, clock, watcher = Store(tmp_path / "s").claim(unit["unit"]), [0.0], Watcher()
    lease.write_text('{"host": "elsewh')
    monkeypatch.setattr(claims.time, "monotonic", lambda: clock[0])
    assert watcher.held(lease) == (True, None)
    clock[0] += claims.LEASE_SECONDS + 1
    held, stale = watcher.held(lease)
    assert not held
    assert work(unit | {"stale": {lease.name: stale}}, tmp_path / "s")["event"] == "done"


@pytest.mark.parametrize("jump", [86400.0, -86400.0])
def test_a_clock_that_jumps_a_day(
    unit: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Leases live by their beats, not by the time that they say; a unit at work notices nothing."""
    work(unit, tmp_path / "smooth")
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.005)
    wall, jumps, steady = time.time, itertools.count(), [0.0]
    monkeypatch.setattr(time, "time", lambda: wall() + jump * next(jumps))
    monkeypatch.setattr(time, "monotonic", lambda: steady[0])
    lease, watcher = acquire(tmp_path / "unit.json"), Watcher()
    assert lease is not None
    for _ in range(5):
        before = lease.beat
        while lease.beat < before + 2:
            lease.done.wait(0.005)
        assert watcher.held(lease.path) == (True, None)
        steady[0] += claims.LEASE_SECONDS - 1
    lease.release()
    monkeypatch.setattr(time, "monotonic", time.perf_counter)
    assert work(unit, tmp_path / "rough")["event"] == "done"
    same(tmp_path / "rough", tmp_path / "smooth")


def test_a_holder_that_slept_leaves_the_lease_of_its_successor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    path = tmp_path / "unit.json"
    first = acquire(path)
    assert first is not None
    first.done.set()
    first.thread.join()  # it sleeps
    second = acquire(path, path.read_text())
    assert second is not None
    first.done.clear()
    first.keep()  # it wakes: returns at once
    first.release()
    assert json.loads(path.read_text())["id"] == second.owner["id"]
    second.release()
    assert not path.exists()


@pytest.fixture
def study_file(tiny: list[str], tmp_path: Path) -> Path:
    """Three trunks of two runs, some seconds long; PTQ on the unquantized ones."""
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "64k,128k"}
    blocks = [settings | {"ptq": "rtn", "ptq.bits": "3,4"}, settings | {"quant.weights.bits": "3,4"}]  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"points": blocks}))
    return path


@pytest.mark.slow
def test_sigterm_again_and_again(study_file: Path, tmp_path: Path, sweeps: Any) -> None:
    """Each time as soon as somebody is at training, until nothing is left or three times."""
    rough, stops = tmp_path / "rough", 0
    for _ in range(3):
        process = sweeps.begin(study_file, rough, ALONE)
        if sweeps.at_training(process, rough) is None:
            break
        process.terminate()
        told = "".join(process.communicate())
        stops += process.returncode == 130
        assert process.returncode in (0, 130), told
        assert process.returncode == 0 or "the same command goes on" in told
    assert stops > 0
    sweeps.end(sweeps.begin(study_file, rough, ALONE))
    sweeps.end(sweeps.begin(study_file, tmp_path / "smooth", ALONE))
    same(rough, tmp_path / "smooth")


@pytest.mark.slow
def test_a_stalled_worker_wakes_after_its_lease(
    study_file: Path, tmp_path: Path, sweeps: Any
) -> None:
    """Another sweep takes its unit over; its late results say the same, and are only compared."""
    rough = tmp_path / "rough"
    first = sweeps.begin(study_file, rough, ALONE, "launcher.workers=1")
    worker = sweeps.holder(first, rough)
    os.kill(worker, signal.SIGSTOP)
    try:
        second = sweeps.begin(study_file, rough, ALONE, "launcher.workers=1")
        assert "10 of 10 points" in sweeps.end(second)
        before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in rough.glob("runs/*/result.json")}  # fmt: skip
    finally:
        os.kill(worker, signal.SIGCONT)
    assert "10 of 10 points" in sweeps.end(first)
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}
    assert len(before) == 6
    sweeps.end(sweeps.begin(study_file, tmp_path / "smooth", ALONE))
    same(rough, tmp_path / "smooth")


@pytest.mark.slow
def test_a_disk_that_fills_and_is_freed(study_file: Path, tmp_path: Path, sweeps: Any) -> None:
    """A real one: a file system of its own in a namespace of its own."""
    mine = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*mine, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("no file system may be mounted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    sweep = f"{' '.join(COMMAND)} {study_file} {ALONE} --store {disk}/s"
    script = f"""
        mount -t tmpfs -o size=1400k none {disk} || exit 9
        {sweep}; echo "full: $?"
        mount -o remount,size=64m {disk}
        {sweep}; echo "freed: $?"
        cp -r {disk}/s {tmp_path}/rough
    """
    done = subprocess.run([*mine, script], capture_output=True, text=True, check=False)
    assert "full: 2\n" in done.stdout, done.stdout + done.stderr
    assert "the store cannot be written: " in done.stderr
    assert "make room and run the same command again" in done.stderr
    assert "freed: 0\n" in done.stdout, done.stdout + done.stderr
    sweeps.end(sweeps.begin(study_file, tmp_path / "smooth", ALONE))
    same(tmp_path / "rough", tmp_path / "smooth")
