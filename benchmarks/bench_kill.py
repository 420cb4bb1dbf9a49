"""A sweep that is killed again and again ends as one that never was: `kill -9` at seeded random moments.

    python benchmarks/bench_kill.py [kills] [seed]

40 runs and 40 points of weights before and after the decay, as trunks one by one and as packs, undisturbed and with `kills` times SIGKILL: in
half of the lives of the sweep a worker, all workers or the parent (half the time with all of them) after a
random part of a second, also while they start; in the others right before or right after a rename or link to a
place of the store, of which SITES lists every one that a sweep has. After each life: what was finished has
kept every byte and `runs verify` finds no damage. Claim: nothing finished is ever lost, and the frames are
identical but for `seconds`.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from precisionlaws.store import Store, load
from precisionlaws.sweep.upkeep import verify

WIDTHS = "{size: 7k, tokens: '8k,16k,32k,64k', seed: '0,1', batch_tokens: '512', data.context: '64', data.eval_tokens: '4096'"
STUDY = f"""
points:
  - {WIDTHS}, quant.weights.bits: '16', ptq: rtn, ptq.bits: '3,4', ptq.phase: 'final,stable'}}
  - {WIDTHS}, quant.weights.bits: '3,4,5,6'}}
"""
RUNS, PACKS = 40, (1, 5)
SITES = [
    f"{when} {call} {place}"
    for when in ("before", "after")
    for call, place in (
        ("link", "studies/"), ("link", "claims/"), ("replace", "claims/"), ("rename", "claims/"),
        ("link", "config.yaml"), ("replace", "step-"), ("replace", "resume.safetensors"),
        ("replace", "checkpoint.safetensors"), ("replace", "held_out.npy"), ("replace", "metrics.jsonl"),
        ("link", "result.json"), ("link", "points/"),
    )
]  # fmt: skip
# Leases beat often enough to die in it. In a life with DIE_AT, a process whose n-th call at that site comes
# says so, and dies.
SITE = """
import os, sys
when, name, place, n = (os.environ.get("DIE_AT") or "- - - 0").split(" ")
ours = "precisionlaws" in " ".join(sys.orig_argv)
if ours:
    import precisionlaws.claims
    precisionlaws.claims.BEAT_SECONDS = 0.2
if ours and name != "-":
    left, real = [int(n)], getattr(os, name)
    def call(source, target, **more):
        left[0] -= place in str(target)
        mine = place in str(target) and left[0] == 0
        if when == "after" or not mine:
            real(source, target, **more)
        if mine:
            log = os.open(os.environ["DIED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{when} {name} {place}\\n".encode())
            os.kill(os.getpid(), 9)
    setattr(os, name, call)
"""


def main(kills: int = 100, seed: int = 0) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "study.yaml").write_text(STUDY)
        (root / "site").mkdir()
        (root / "site" / "sitecustomize.py").write_text(SITE)
        seconds = {pack: smooth(root, pack) for pack in PACKS}
        dealt: Counter[str] = Counter()
        packs, sweeps = cycle(PACKS), 0
        while sum(dealt.values()) < kills:
            sweeps += 1
            disturbed(root / str(sweeps), next(packs), kills, seconds, rng, dealt)
            print(f"{sum(dealt.values())} kills, {sweeps} sweeps", flush=True)
        report(dealt, sweeps)


def smooth(root: Path, pack: int) -> float:
    """An undisturbed sweep; its seconds."""
    start = time.perf_counter()
    assert life(root / f"smooth-{pack}", pack).wait() == 0
    seconds = time.perf_counter() - start
    print(f"undisturbed, packs of {pack}: {RUNS} runs in {seconds:.0f} s", flush=True)
    return seconds


def disturbed(
    store: Path, pack: int, kills: int, seconds: dict[int, float], rng: random.Random, dealt: Counter[str]
) -> None:  # fmt: skip
    """One sweep in many lives, the last of which ends by itself."""
    seen: dict[Path, bytes] = {}
    code = -1
    while code != 0:
        more = sum(dealt.values()) < kills
        how = (
            rng.choice(("worker", "workers", "parent", "site", "site", "site")) if more else "none"
        )
        site = min(SITES, key=lambda s: (dealt[s], rng.random())) if how == "site" else ""
        process = life(store, pack, f"{site} {rng.randint(1, nth(site))}" * bool(site))
        if "resume" in site:  # written on the way out, and every half minute
            until_at_work(process, store)
            time.sleep(rng.random())
            process.terminate()
        elif how in ("worker", "workers", "parent"):
            dealt[how] += killed(process, how, store, rng, seconds[pack] / 4)
        code = process.wait(600)
        dealt.update(died(store))
        check(store, seen)
        assert more or code == 0, f"an undisturbed life ended with exit code {code}"
    compare(store, store.parent / f"smooth-{pack}")


def died(store: Path) -> list[str]:
    """The sites where processes died since the last look."""
    log = store.with_suffix(".died")
    sites = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sites


def nth(site: str) -> int:
    """Early enough for the call to come."""
    return 1 if "studies" in site or "resume" in site or "rename" in site else 3


def life(store: Path, pack: int, die_at: str = "") -> subprocess.Popen[bytes]:
    root = store.parent
    command = [sys.executable, "-m", "precisionlaws.cli", "sweep", str(root / "study.yaml")]
    command += [f"exec.pack={pack}", "--store", str(store), "--retry", "failed"]
    paths = os.pathsep.join(filter(None, (str(root / "site"), os.environ.get("PYTHONPATH"))))
    died = str(store.with_suffix(".died"))
    env = os.environ | {"DIE_AT": die_at, "DIED": died, "PYTHONPATH": paths}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, start_new_session=True)


def until_at_work(process: subprocess.Popen[bytes], store: Path) -> None:
    """A worker has taken a lease, or renewed one."""
    before = {p: p.read_bytes() for p in store.glob("claims/*.json")}
    while process.poll() is None:
        for path in store.glob("claims/*.json"):
            with suppress(FileNotFoundError):
                if path.read_bytes() != before.get(path):
                    return
        time.sleep(0.02)


def killed(
    process: subprocess.Popen[bytes], how: str, store: Path, rng: random.Random, seconds: float
) -> bool:
    """One of six while it starts, the others at work. Whether there was somebody to kill.

    Workers that outlive their parent save and leave, while the next life goes on already.
    """
    if rng.random() < 1 / 6:
        time.sleep(4 * rng.random())
    else:
        until_at_work(process, store)
        time.sleep(seconds * rng.random())
    children = workers(process.pid)
    targets = {"worker": children[:1], "workers": children, "parent": [process.pid]}[how]
    if how == "parent" and rng.random() < 0.5:
        targets += children
    alive = process.poll() is None and bool(targets)
    for pid in targets if alive else ():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return alive


def workers(parent: int) -> list[int]:
    out = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return [int(p) for p in out.stdout.split()]


def check(store: Path, seen: dict[Path, bytes]) -> None:
    """What was finished before is what it was, and nothing is damaged."""
    for path, content in seen.items():
        assert path.read_bytes() == content, f"{path} was changed"
    seen |= {p: p.read_bytes() for p in (*store.glob("runs/*/result.json"), *store.glob("runs/*/points/*.json"))}  # fmt: skip
    damaged = [f for f in verify(Store(store)) if f.damaged]
    assert not damaged, damaged


def compare(rough: Path, smooth: Path) -> None:
    import pandas as pd

    one, other = (load(store).drop(columns="seconds") for store in (rough, smooth))
    assert (one.eval_id == "final").sum() == RUNS
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def report(dealt: Counter[str], sweeps: int) -> None:
    moments = ("worker", "workers", "parent")
    print("killed: " + ", ".join(f"{dealt[k]} times {k}" for k in moments))
    for site in SITES:
        print(f"  {dealt[site]:3} {site}")
    print(f"{sum(dealt.values())} kills, {sweeps} sweeps: nothing finished was lost; the frame is identical but for `seconds`")  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
