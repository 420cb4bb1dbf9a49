"""Job scripts: what they hold, and what is refused before there is one."""

from pathlib import Path
from typing import Any

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.run import Exec
from precisionlaws.store import Store
from precisionlaws.sweep.rates import IDLE
from precisionlaws.sweep.schedule import Unit
from precisionlaws.sweep.slurm import script
from tests.sweep.slurm.launched import EXEC, slurm


def test_a_script_to_the_letter(todo: list[Unit], tmp_path: Path) -> None:
    """It holds what was asked for, and no pickle is in its way."""
    store = Store(tmp_path / "a b%")
    launcher = slurm(
        partition="p", account="a", qos="q", gpus=2, memory="16G", time="1-12", at_once=3, raw=["constraint=h100", "exclusive"],
        setup=["module load x"], units_per_job=2, workers=2, python="singularity exec i python",
    )  # fmt: skip
    (first, *_), exec = script.batches(todo, launcher, launcher.placed(Exec(device="auto", threads=3, pack=1)), store, IDLE, "s", 1001), EXEC  # fmt: skip
    lines = first.script.splitlines()
    for line in ("partition=p", "account=a", "qos=q", "gpus-per-node=2", "mem=16G", "time=2160", "array=0-1%3", "constraint=h100", "exclusive", "cpus-per-task=6", "requeue", "signal=B:USR2@120", "open-mode=append"):  # fmt: skip
        assert f"#SBATCH --{line}" in lines
    assert f"#SBATCH --output='{store.root}%/jobs/{first.name}/%a.log'" in lines
    assert lines[-1].startswith("exec singularity exec i python -P -u -m precisionlaws.sweep.slurm.task")  # fmt: skip
    assert "module load x" in lines
    assert "pickle" not in first.script
    assert first.tasks[0][0]["exec"]["device"] == "cuda"
    assert [len(t) for t in first.tasks] == [2, 1]
    assert exec.device == "cpu"


def test_time_and_memory_are_asked_as_estimated(todo: list[Unit]) -> None:
    assert script.asked(todo, slurm(), EXEC, IDLE) == "10"
    assert script.asked(todo, slurm(time="site"), EXEC, IDLE) is None
    assert script.asked(todo, slurm(time="90"), EXEC, IDLE) == "90"
    assert script.asked(todo, slurm(max_time="0:05:00"), EXEC, IDLE) == "5"
    assert [script.rounded(m) for m in (1, 10.1, 700, 721, 3000)] == [10, 20, 720, 1440, 4320]
    assert script.memory(todo, slurm(), EXEC) == "1G"
    assert script.memory(todo, slurm(units_per_job=2, workers=2), EXEC) == "2G"
    assert script.memory(todo, slurm(memory="site"), EXEC) is None
    gpu = slurm(gpus=1)
    assert script.memory(todo, gpu, gpu.placed(Exec(device="auto", threads=1))) == "8G"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("time", "soon", "time must be estimate, site, or a time as Slurm writes it"),
        ("max_time", "0", "max_time must be a time"),
        ("memory", "lots", "memory must be estimate, site, or as sbatch takes it"),
        ("workers", 2, "workers must be at most units_per_job=1"),
        ("raw", ["--constraint=a"], "without dashes"),
        ("raw", ["mem=1G"], "use launcher.memory"),
        ("setup", ["a\nb"], "must be one line"),
        ("signal", 1, "signal must be 10 to 65535"),
    ],
)
def test_mistakes(field: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        slurm(**{field: value})


def test_names_may_be_numbers() -> None:
    assert slurm(account=2718, time=90).account == "2718"


def test_gpus_are_asked_for_where_they_are_wanted() -> None:
    auto = Exec(device="auto", threads=1)
    assert slurm().placed(auto).device == "cpu"
    assert slurm(gpus=1).placed(auto).device == "cuda"
    with pytest.raises(ConfigError, match=r"needs launcher\.gpus=1"):
        slurm().placed(Exec(device="cuda", threads=1))


def test_without_submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit.slurm.slurm", None)
    with pytest.raises(ConfigError, match=r"pip install 'precisionlaws\[slurm\]'"):
        script.header()
