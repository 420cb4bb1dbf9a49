"""Memory is known before it is used, and a study that does not fit is refused with a remedy."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, Launcher, compose, parts_of
from precisionlaws.store import Store
from precisionlaws.sweep import memory
from precisionlaws.sweep.engine import run_study
from precisionlaws.sweep.launchers.local import Local
from precisionlaws.sweep.live import Live
from precisionlaws.sweep.points import Study, study
from precisionlaws.sweep.schedule import units

CPU = Exec(device="cpu", threads=1)
CODE = """
import json, os, re, sys
from precisionlaws.run import compose
from precisionlaws.training.train import train
train(compose(sys.argv[2:]), sys.argv[1])
size = sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(sys.argv[1]) for f in files)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # ru_maxrss holds that of the parent
print(json.dumps({"peak": int(peak[1]) * 1024, "disk": size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
@pytest.mark.parametrize(
    "size",
    [
        "size=7k tokens=8192",
        "size=3M tokens=16384 batch_tokens=8192",
        "size=10M tokens=4096 batch_tokens=2048",
        "size=1M model=gpt data.context=512 tokens=32768 batch_tokens=16384",  # attention in blocks
    ],
)  # fmt: skip
def test_the_estimate_is_within_30_percent_of_a_training_process(tmp_path: Path, size: str) -> None:
    words = [*size.split(), "data.eval_tokens=4096"]
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path), *words], capture_output=True, text=True, check=True)  # fmt: skip
    seen, run = json.loads(done.stdout), compose(words)
    parts = parts_of(run, CPU, "cpu")
    assert memory.run_bytes(run, run.batch, "cpu", parts=parts) == pytest.approx(seen["peak"], rel=0.3)  # fmt: skip
    unit = replace(units(study("demo", ["size=7k", "seed=0"]).points)[0], runs=(run,), ptqs=((),))
    assert memory.disk_bytes(unit) == pytest.approx(seen["disk"], rel=0.1)


def large() -> Study:
    return study(
        "chinchilla",
        ["size=1M", "seed=0,1", "tokens=1M", "batch_tokens=65536", "launcher.workers=2"],
    )


def test_a_study_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "capacity", lambda where: 2_000_000_000)
    store = Store(tmp_path / "none")
    with pytest.raises(ConfigError) as refused:
        run_study(large(), store, Live())
    text = str(refused.value)
    assert text.count("\n") == 0
    assert "size d3w160 (N = 995,328) needs about" in text or "needs about" in text
    assert "this machine has 2.0 GB: set " in text
    assert not store.root.exists()


def test_the_remedy_works(monkeypatch: pytest.MonkeyPatch) -> None:
    made = large()
    for most in (2_000_000_000, 4_000_000_000):
        monkeypatch.setattr(memory, "capacity", lambda where, most=most: most)
        need = memory.memory(units(made.points), CPU, 2)
        assert need is not None
        assert not need.fits
        ways = memory.remedy(need).removeprefix("set ").split(" or ")
        assert any("micro_batch=" in w for w in ways)
        for way in ways:
            key, value = way.split("=")
            runs = [replace(p, run=replace(p.run, micro_batch=int(value))) for p in made.points]
            smaller = memory.memory(
                units(runs if key == "micro_batch" else made.points), CPU,
                int(value) if key == "launcher.workers" else 2,
            )  # fmt: skip
            assert smaller is not None
            assert smaller.fits, way


def test_nothing_fits_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "capacity", lambda where: 100_000_000)
    need = memory.memory(units(large().points), CPU, 2)
    with pytest.raises(ConfigError, match="take a smaller size"):
        memory.check(need)
    monkeypatch.setattr(memory, "capacity", lambda where: None)
    memory.check(memory.memory(units(large().points), CPU, 2))  # nobody says how much there is


def test_a_larger_batch_model_and_quantized_activations_take_more() -> None:
    small = compose(["size=7k"])
    for more in (["size=1M"], ["size=7k", "batch_tokens=8192"], ["size=7k", "quant=low_precision"], ["size=7k", "dtype=float64"]):  # fmt: skip
        run = compose(more)
        assert memory.run_bytes(run, run.batch, "cpu") > memory.run_bytes(small, small.batch, "cpu")


def test_limits_of_containers_are_found_at_every_level(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    for place, text in (("outer", "4096\n"), ("outer/inner", "max\n")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "memory.max").write_text(text)
    (tmp_path / "memory.max").write_text("8192")
    assert sorted(memory.cgroup_limits(tmp_path, own)) == [4096, 8192]
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2048")
    assert min(memory.cgroup_limits(tmp_path, own)) == 2048
    assert memory.cgroup_limits(tmp_path / "none", tmp_path / "nothing") == []


def test_this_machine_has_memory() -> None:
    most = memory.capacity("cpu")
    assert most is None or most > 500_000_000
    assert memory.free_bytes(Path("not/yet/there")) > 0  # type: ignore[operator]


def test_another_machines_memory_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the local launcher runs here; the check is its."""
    asked: list[int] = []
    monkeypatch.setattr("precisionlaws.sweep.engine.check", lambda need: asked.append(1))
    monkeypatch.setattr(
        "precisionlaws.sweep.engine.Store.check_writable", lambda self: 1 / 0, raising=True
    )
    slurm: Any = build(option("launcher", "slurm"), Launcher)
    for launcher, times in ((Local(workers=2), 1), (slurm, 1)):
        made = replace(large(), launcher=launcher)
        with pytest.raises(ZeroDivisionError):
            run_study(made, Store("none"), Live())
        assert len(asked) == times
