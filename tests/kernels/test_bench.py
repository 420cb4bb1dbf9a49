"""The benchmark measures what it says; its numbers are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from precisionlaws.cli.bench import app
from precisionlaws.kernels import bench

KINDS = list(bench.kinds(torch.ones(128, 128), 4))


def test_rates_follow_from_times() -> None:
    timings = list(bench.cpu(size=256, rounds=3))
    assert [t.what for t in timings] == KINDS
    for t in timings:
        passes = 3 if t.what in ("int tensor", "nvfp4") else 2
        assert t.gb_s == pytest.approx(passes * 256 * 256 * 4 / (t.ms * 1e-3) / 1e9)
        assert t.of_copy == pytest.approx(passes / 2 * t.copy_ms / t.ms)
    assert len(list(bench.lines(timings))) == 1 + len(timings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="^torch sees no GPU here"):
        list(bench.gpu())


def test_command_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "here", lambda: list(bench.cpu(size=128, rounds=1)))
    text = CliRunner().invoke(app, ["kernels"])
    assert text.exit_code == 0
    assert len(text.stdout.splitlines()) == 2 + len(KINDS)
    read = json.loads(CliRunner().invoke(app, ["kernels", "--json"]).stdout)
    assert [t["what"] for t in read["timings"]] == KINDS
    assert read["torch"] == torch.__version__


@pytest.mark.slow
def test_benchmark_prints_json() -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_kernels.py"
    command = [sys.executable, str(script), "--json", "--size", "128"]
    read = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert read["cpu"]["of_clone"]["clone"] == 1
    assert ("skipped" in read["gpu"]) == (not torch.cuda.is_available())
