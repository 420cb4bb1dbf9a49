"""What the scenes of test_slurm.py are played on: sweeps on a real Slurm, and the gate before which their workers stop."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from precisionlaws.store import Store, load
from precisionlaws.sweep.upkeep import verify

PATIENCE = 300  # seconds: for machines that are busy
EVERY = 100  # steps between checkpoints
# Leases that die within seconds, checkpoints by steps instead of seconds, and the gate: the file STORE.gate.
SITE = f"""
import sys
if "precisionlaws" in " ".join(sys.orig_argv):
    import precisionlaws.claims
    precisionlaws.claims.BEAT_SECONDS, precisionlaws.claims.LEASE_SECONDS = 0.2, 5.0
if "precisionlaws.sweep.worker" in sys.orig_argv:
    import time
    from pathlib import Path
    import precisionlaws.training.unit as unit

    gate, lookout = Path(sys.orig_argv[-1] + ".gate"), unit.lookout

    def shut(step):
        try:
            return step >= int(gate.read_text())
        except FileNotFoundError:
            return False

    def gated(watch, *rest):
        look = lookout(watch, *rest)

        def at_gate(state):
            unit.SAVE_SECONDS = -1.0 if state.step % {EVERY} == 0 else 1e9
            look(state)
            while shut(state.step):
                time.sleep(0.05)
                if watch.stop():
                    look(state)

        return at_gate

    unit.lookout = gated
"""


@dataclass
class Scene:
    """A sweep on Slurm, and what happens to it."""

    study: Path | str
    store: Path
    options: tuple[str, ...]
    site: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def begin(self) -> None:
        command = [sys.executable, "-P", "-m", "precisionlaws.cli", "sweep", str(self.study)]
        command += [
            "--store",
            str(self.store),
            "launcher=slurm",
            "launcher.poll=0.5",
            *self.options,
        ]
        environment = os.environ | {"PYTHONPATH": str(self.site)}
        with self.log(len(self.processes)).open("wb") as log:
            made = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.processes.append(made)

    def log(self, number: int) -> Path:
        return Path(f"{self.store}.{number}")

    def told(self) -> str:
        """What the last submitter said."""
        return self.log(len(self.processes) - 1).read_text()

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait()

    def gate(self, step: int | None) -> None:
        """None of its workers trains beyond this step."""
        path = Path(f"{self.store}.gate")
        if step is None:
            return path.unlink()
        path.with_suffix(".new").write_text(str(step))
        path.with_suffix(".new").replace(path)

    def until(self, true: Callable[[], object], ends: bool = False) -> None:
        """ends: the sweep may end meanwhile."""
        end = time.monotonic() + PATIENCE
        while not true():
            assert ends or self.processes[-1].poll() is None, f"it has ended: {self.told()}"
            assert time.monotonic() < end, f"in vain: {self.told()}\n{self.logs()}\n{queue()}"
            time.sleep(0.2)

    def at(self, step: int, count: int) -> None:
        """Wait until that many workers stand at the gate."""
        self.until(lambda: sorted(self.training().values()) == [step] * count)

    def end(self, code: int = 0) -> None:
        self.until(lambda: self.processes[-1].poll() is not None, ends=True)
        assert self.processes[-1].returncode == code, self.told() + self.logs()
        assert "Traceback" not in self.told() + self.logs()

    def training(self) -> dict[str, int]:
        """Unit -> step, of leases that are held."""
        return {unit: note["step"] for unit, note in self.leases().items() if note.get("step")}

    def leases(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in self.store.glob("claims/*.json"):
            with suppress(OSError, ValueError):
                found[path.stem] = json.loads(path.read_text())
        return found

    def tasks(self) -> list[list[str]]:
        """Array by array, index by index: the first unit of each job."""
        folders = sorted({p.parent for p in self.store.glob("jobs/*/job.sh")}, key=lambda p: p.stat().st_ctime)  # fmt: skip
        lines = [(folder / "tasks.jsonl").read_text().splitlines() for folder in folders]
        return [[json.loads(line)[0]["unit"] for line in found] for found in lines]

    def states(self) -> dict[str, str]:
        """Job -> state."""
        names = ",".join({p.parent.name for p in self.store.glob("jobs/*/job.sh")})
        told = run("squeue", "-hr", "--states=all", f"--name={names}", "-o", "%F_%K %T") if names else ""  # fmt: skip
        return dict(line.split() for line in told.splitlines())

    def array(self) -> str:
        (found,) = {job.split("_")[0] for job in self.states()}
        return found

    def logs(self) -> str:
        return "".join(p.read_text() for p in sorted(self.store.glob("jobs/*/*.log")))

    def starts(self) -> dict[str, list[int]]:
        """Unit -> the step with which each start of its job began, by the jobs' own logs."""
        found: dict[str, list[int]] = {}
        for log in sorted(self.store.glob("jobs/*/*.log"), key=lambda p: p.stat().st_mtime):
            seen: set[str] = set()
            for line in log.read_text().splitlines():
                if " units on " in line:
                    seen = set()
                match = re.search(r" (\S+): \S+ step (\d+)/", line)
                if match and match[1] not in seen:
                    seen.add(match[1])
                    found.setdefault(match[1], []).append(int(match[2]))
        return found

    def again(self, count: int, units: int) -> None:
        """Wait until that many units have been started that often."""
        self.until(lambda: sum(len(s) >= count for s in self.starts().values()) == units)


@dataclass
class World:
    slurm: Any
    folder: Path
    settings: dict[str, str]
    scenes: list[Scene] = field(default_factory=list)
    whole: Path = Path()
    part: Path = Path()
    one: Path = Path()
    smooth: "Future[Path]" = field(default_factory=Future)

    def scene(self, name: str, study: Path | str, *options: str) -> Scene:
        made = Scene(study, self.folder / name, options, self.folder / "site")
        self.scenes.append(made)
        return made

    def written(self, name: str, *blocks: dict[str, str]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"points": [self.settings | block for block in blocks]}))
        return path

    def undisturbed(self) -> Path:
        """The store of a sweep on this machine."""
        cli("sweep", self.whole, "--store", self.folder / "smooth", "exec.pack=1")
        return self.folder / "smooth"

    def same(self, scene: Scene) -> None:
        same(scene.store, self.smooth.result())


def run(*command: object, code: int | None = 0) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def cli(*arguments: object) -> str:
    return run(sys.executable, "-P", "-m", "precisionlaws.cli", *arguments)


def queue() -> str:
    return run("squeue", "-r", "--states=all", code=None) + run("sinfo", code=None)


def same(store: Path, smooth: Path) -> None:
    """Bit for bit, of every run that it has; nothing is damaged or left over."""
    mine, theirs = (load(s).drop(columns="seconds") for s in (store, smooth))
    theirs = theirs.loc[theirs.run_id.isin(mine.run_id)].reset_index(drop=True)
    known = [c for c in theirs if theirs[c].notna().any()]  # no columns of PTQ where there is none
    # P_post is whole where there is no other
    pd.testing.assert_frame_equal(mine.loc[:, known], theirs.loc[:, known], check_exact=True, check_dtype=False)  # fmt: skip
    assert not list(verify(Store(store)))
    assert not [p for p in (store / "claims").iterdir() if not p.name.startswith(".")]
