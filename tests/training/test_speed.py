"""The table of this machine's speed, and the jobs that benchmarks train."""

import pytest
import torch

from precisionlaws.training import speed


def test_a_row_per_size_and_a_column_per_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SIZES", ("7k", "20k"))
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    monkeypatch.setattr(speed, "ROUNDS", 1)
    threads = torch.get_num_threads()
    head, *rows = speed.table().splitlines()
    assert torch.get_num_threads() == threads
    assert head.split() == ["size", "N", "16", "bits", "w4", "w8", "a8", "kv8", "tokens", "per", "second"]  # fmt: skip
    assert [r.split()[:2] for r in rows] == [["7k", "6,656"], ["20k", "23,552"]]
    assert all(float(x.replace(",", "")) > 100 for r in rows for x in r.split()[2:])


def test_a_job_makes_the_trainers_steps() -> None:
    one = speed.job("7k", 256, ["data.context=64", "quant=qat"])
    one.steps(2)
    one.steps(3)
    assert one.state.step == 5
    assert one.state.log_table()[:, 0].tolist() == [2, 3, 4]
    assert one.run.batch == 256
