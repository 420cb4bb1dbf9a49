"""A sweep that is killed again and again ends as one that never was: `kill -9` at seeded random moments.

    python benchmarks/bench_kill.py [kills] [seed]

The same 40 runs twice: undisturbed, and with `kills` times SIGKILL of a worker, of all workers, or of the
parent (then of everything), after a random part of a second, and in every third life inside a rename, which
leaves a temporary file and no result. Claim: no finished result is ever lost or changed, and the frames are
identical but for `seconds`.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STUDY = """
points:
  - {size: 7k, tokens: '64k,128k', seed: '0,1,2,3', quant.weights.bits: '16,4', batch_tokens: '1024', data.eval_tokens: '8192'}
  - {size: 7k, tokens: '64k,128k', seed: '0,1,2,3', quant.weights.bits: '3,5,6', batch_tokens: '1024', data.eval_tokens: '8192'}
"""
# In a life with this, the n-th rename or link of each process is its last act.
SITE = """
import os, sys
n = int(os.environ.get("DIE_AT_RENAME", "0"))
if n and "precisionlaws" in " ".join(sys.orig_argv):
    count = 0
    def wrap(real):
        def call(*a, **k):
            global count
            count += 1
            if count == n:
                os.kill(os.getpid(), 9)
            return real(*a, **k)
        return call
    os.replace, os.rename, os.link = map(wrap, (os.replace, os.rename, os.link))
"""


def main(kills: int = 100, seed: int = 0) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "study.yaml").write_text(STUDY)
        (root / "site").mkdir()
        (root / "site" / "sitecustomize.py").write_text(SITE)
        start = time.perf_counter()
        assert life(root, "smooth").wait() == 0
        smooth = time.perf_counter() - start
        print(f"undisturbed: {len(results(root / 'smooth'))} runs in {smooth:.0f} s")
        done = disturbed(root, kills, rng, smooth)
        report(root, done)


def disturbed(root: Path, kills: int, rng: random.Random, smooth: float) -> dict[str, int]:
    """Lives and deaths until the sweep has ended by itself and all kills were dealt."""
    done = {"worker": 0, "workers": 0, "parent": 0, "rename": 0, "lives": 0, "repeats": 0}
    seen: dict[Path, bytes] = {}
    while sum(done[k] for k in ("worker", "workers", "parent", "rename")) < kills:
        how = rng.choice(("worker", "workers", "parent", "rename"))
        process = life(root, "rough", rng.randint(1, 40) if how == "rename" else 0)
        done["lives"] += 1
        if how == "rename":
            process.wait(600)
            done[how] += 1
        while how != "rename" and process.poll() is None:
            time.sleep(2 + rng.random() * smooth / 20)
            if process.poll() is None:
                kill(process, how, rng)
                done[how] += 1
                how = rng.choice(("worker", "workers", "parent"))
        for path, content in seen.items():
            assert path.read_bytes() == content, f"{path} was changed"
        seen |= {p: p.read_bytes() for p in results(root / "rough")}
        if len(seen) == 40:  # all done: start over, in another store, for the kills that are left
            compare(root)
            done["repeats"] += 1
            (root / "rough").rename(root / f"done-{done['repeats']}")
            seen = {}
    while life(root, "rough").wait() != 0:
        done["lives"] += 1
    return done


def life(root: Path, store: str, die_at_rename: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "precisionlaws.cli", "sweep", str(root / "study.yaml")]
    command += ["--store", str(root / store), "--retry", "failed"]
    paths = os.pathsep.join(filter(None, (str(root / "site"), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"DIE_AT_RENAME": str(die_at_rename), "PYTHONPATH": paths}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, start_new_session=True)


def workers(parent: int) -> list[int]:
    out = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return [int(p) for p in out.stdout.split()]


def kill(process: subprocess.Popen[bytes], how: str, rng: random.Random) -> None:
    children = workers(process.pid)
    targets = {"worker": children[:1], "workers": children, "parent": [process.pid]}[how]
    if how == "parent" and rng.random() < 0.5:
        targets = [*targets, *children]
    for pid in targets:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if how == "parent":
        process.wait()


def results(store: Path) -> list[Path]:
    return sorted(store.glob("runs/*/result.json"))


def frame(store: Path) -> Any:
    from precisionlaws.store import load

    return load(store).drop(columns="seconds")


def compare(root: Path) -> None:
    import pandas as pd

    pd.testing.assert_frame_equal(frame(root / "rough"), frame(root / "smooth"))


def report(root: Path, done: dict[str, int]) -> None:
    compare(root)
    dealt = ", ".join(f"{done[k]} {k}" for k in ("worker", "workers", "parent", "rename"))
    print(f"killed: {dealt}; {done['lives']} lives, {done['repeats']} sweeps ended on the way")
    print("nothing finished was lost; the frame is identical but for `seconds`")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
