"""The same cold sweep by one single-threaded worker and by two, as a user starts it; needs two idle cores.

    python benchmarks/bench_workers.py [repetitions]

30 runs of three sizes on ten trunks, about a minute of one core. Claim: two workers take at most 1/1.7 of the
time of one (the peer), start-up of all processes, planning and the idle tail at the end counted; the frames
are identical but for `seconds`. CPU seconds tell how much of it is overhead, on a busy machine too.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas as pd

from precisionlaws.store import load

STUDY = """
points:
  - {size: '7k,20k', tokens: '128k,256k,512k', seed: '0,1', quant.weights.bits: '4,16'}
  - {size: 50k, tokens: '128k,256k,512k', seed: '0,1'}
"""


def timed(study: Path, store: Path, workers: int) -> tuple[float, float]:
    """Seconds, CPU seconds of the sweep's processes."""
    command = [sys.executable, "-m", "precisionlaws.cli", "sweep", str(study), "--store", str(store)]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*command, "exec.pack=1", f"launcher.workers={workers}"], check=True, capture_output=True
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(repetitions: int = 1) -> None:
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(STUDY)
        for i in range(repetitions):
            (one, cpu_one), (two, cpu_two) = (timed(study, Path(folder) / f"{i}-{w}", w) for w in (1, 2))  # fmt: skip
            ratios.append(one / two)
            print(f"one worker  {one:6.1f} s  {cpu_one:6.1f} CPU s")
            print(f"two         {two:6.1f} s  {cpu_two:6.1f} CPU s   {one / two:.2f} times as fast")
            frames = [load(Path(folder) / f"{i}-{w}").drop(columns="seconds") for w in (1, 2)]
            pd.testing.assert_frame_equal(*frames, check_exact=True)  # pyright: ignore
    busy = os.getloadavg()[0]
    print(f"median ratio {median(ratios):.2f} (claim: 1.7); load average {busy:.1f} at the end")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
