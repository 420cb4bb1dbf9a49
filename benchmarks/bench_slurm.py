"""2,000 units on Slurm: how long `sweep` takes to have them all in the queue, and a look at them.

    python benchmarks/bench_slurm.py               # starts a Slurm of its own; needs Debian's slurm-wlm

The claims: submitted in at most 60 s, from the command to the last job in the queue; `jobs watch --once` at most
1 s. Beside them, what the same takes without us: one bare `sbatch` per unit (of a sample), and one `squeue`.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "sweep" / "slurm"))
from cluster import cluster  # noqa: E402  # pyright: ignore[reportMissingImports]

SAMPLE = 50
CLI = [sys.executable, "-P", "-m", "precisionlaws.cli"]


def study(folder: Path, units: int) -> Path:
    rng = random.Random(0)
    (folder / "text.txt").write_text(" ".join(rng.choices(["law", "of", "bits", "loss"], k=15_000)))
    block = {
        "data": "text", "data.path": str(folder / "text.txt"), "data.context": "32", "data.eval_tokens": "1024",
        "size": "7k", "batch_tokens": "128", "tokens": "2560", "seed": f"range({units})",
    }  # fmt: skip
    path = folder / "many.yaml"
    path.write_text(json.dumps({"points": [block]}))
    return path


def queued() -> int:
    told = subprocess.run(["squeue", "-hr", "-o", "%F"], capture_output=True, text=True, check=True)
    return len(told.stdout.split())


def timed(*command: str) -> tuple[float, float, str]:
    """Seconds, CPU seconds of ours, what it said."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, done.stdout + done.stderr


def submit(path: Path, store: Path, units: int) -> float:
    """Seconds until all of them are in the queue."""
    start = time.perf_counter()
    options = ["launcher=slurm", "launcher.partition=closed", "exec.pack=1"]
    process = subprocess.Popen([*CLI, "sweep", str(path), "--store", str(store), *options])
    while queued() < units:
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended with exit code {process.returncode}")
        time.sleep(0.2)
    seconds = time.perf_counter() - start
    process.kill()  # the jobs stay
    process.wait()
    return seconds


def main(units: int) -> None:
    with cluster(), tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        script = root / "job.sh"
        script.write_text(
            "#!/bin/sh\n#SBATCH --partition=closed\n#SBATCH --output=/dev/null\ntrue\n"
        )
        start = time.perf_counter()
        for _ in range(SAMPLE):
            subprocess.run(["sbatch", str(script)], check=True, capture_output=True)
        bare = (time.perf_counter() - start) * units / SAMPLE
        subprocess.run(["scancel", "--partition=closed"], check=True)
        seconds = submit(study(root, units), root / "s", units)
        print(f"{units:,} units in the queue after {seconds:.1f} s  (one sbatch for each would take {bare:.1f} s: ×{bare / seconds:.1f})")  # fmt: skip
        wall, cpu, told = timed(*CLI, "jobs", "watch", str(root / "s"), "--once")
        if f"{units:,} pending" not in told:
            raise RuntimeError(told)
        peer, _, _ = timed("squeue", "--me", "--array")
        print(f"jobs watch --once  {wall:.2f} s, {cpu:.2f} CPU s  (squeue alone {peer:.2f} s)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
