"""Slurm twice: commands on PATH that answer as it does, and a real one (cluster.py)."""

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from precisionlaws.sweep.points import study
from precisionlaws.sweep.schedule import Unit, units
from tests.sweep.slurm.launched import EXEC

HERE = Path(__file__).parent
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")
# Every command notes its arguments; what it says, and with which exit code, is in files.
FAKE = """#!/bin/sh
echo "$0" "$@" >> {root}/calls
[ -e {root}/{name}.err ] && cat {root}/{name}.err >&2
[ -e {root}/{name}.out ] && cat {root}/{name}.out
[ {name} = sbatch ] && [ ! -e {root}/sbatch.err ] && {{ echo x >> {root}/jobs; wc -l < {root}/jobs | tr -d ' '; }}
[ ! -e {root}/{name}.err ]
"""


@dataclass
class Fake:
    """Slurm's commands. `says` is what one prints; with `fails`, on standard error and with exit code 1."""

    root: Path

    def says(self, command: str, text: str) -> None:
        (self.root / f"{command}.err").unlink(missing_ok=True)
        (self.root / f"{command}.out").write_text(text)

    def fails(self, command: str, text: str) -> None:
        (self.root / f"{command}.err").write_text(text)

    def calls(self, command: str) -> list[str]:
        """Arguments, one call after the other."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        named = (line.partition(" ") for line in lines)
        return [rest for name, _, rest in named if name.endswith(f"/{command}")]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    root = tmp_path / "fake"
    root.mkdir()
    for name in COMMANDS:
        (root / name).write_text(FAKE.format(root=root, name=name))
        (root / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
    made = Fake(root)
    made.says("scontrol", "MaxArraySize            = 1001\nMaxJobCount = 10000\n")
    return made


@pytest.fixture
def todo(tiny: list[str], tmp_path: Path) -> list[Unit]:
    """Three trunks of two runs; PTQ on the unquantized ones."""
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "2560,5120"}
    blocks = [settings | {"ptq": "rtn", "ptq.bits": "3,4"}, settings | {"quant.weights.bits": "3,4"}]  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"points": blocks}))
    return units(study(str(path)).points, EXEC)


@pytest.fixture(scope="session")
def slurm() -> Iterator[object]:
    """A real one with arrays of at most 11 jobs; skips, with the reason, where none can be started."""
    sys.path.insert(0, str(HERE))
    try:
        from cluster import NotStarted, cluster
    finally:
        sys.path.remove(str(HERE))
    with ExitStack() as stack:
        try:
            running = stack.enter_context(cluster(max_array=11))
        except NotStarted as reason:
            pytest.skip(f"no Slurm on this machine: {reason}")
        yield running
