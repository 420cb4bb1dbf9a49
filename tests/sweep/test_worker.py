"""One worker at one unit: memory, what it prints, and how it leaves."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from precisionlaws.claims import acquire
from precisionlaws.config import plain
from precisionlaws.run import Exec, compose, run_id, trunk_id
from precisionlaws.store import Store, load
from precisionlaws.sweep.worker import Leave, execute
from precisionlaws.training import loop

EXEC = Exec(device="cpu", threads=1)


def message(*overrides: str) -> dict[str, Any]:
    runs = [compose([*overrides, f"tokens={D}"]) for D in (1280, 2560)]
    return {
        "unit": trunk_id(runs[0]),
        "trunks": [trunk_id(runs[0])],
        "jobs": [{"run": plain(r), "ptqs": []} for r in runs],
        "exec": plain(EXEC),
    }


def work(unit: dict[str, Any], store: Path) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    execute(unit, Store(store), told.append, lambda: False)
    return told


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than two sequences at a time do not fit."""
    whole = loop.mean_loss

    def mean_loss(state: Any, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return whole(state, ids)

    monkeypatch.setattr(loop, "mean_loss", mean_loss)


def test_out_of_memory_goes_on_in_smaller_pieces(
    tiny: list[str], tmp_path: Path, small_machine: None
) -> None:
    told = work(message(*tiny), tmp_path / "small")
    assert [m["event"] for m in told if m["event"] != "at"][:1] == ["note"]
    assert (
        "again with 2 sequences at a time" in next(m for m in told if m["event"] == "note")["text"]
    )
    assert told[-1] == {"event": "done"}
    rows = load(tmp_path / "small")
    assert set(rows["exec.micro_batch"]) == {2}
    assert len(rows) == 2


def test_the_smaller_pieces_give_the_loss_of_the_whole_batch(
    tiny: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    work(message(*tiny), tmp_path / "large")
    request.getfixturevalue("small_machine")
    work(message(*tiny), tmp_path / "small")
    large, small = load(tmp_path / "large"), load(tmp_path / "small")
    assert set(large["exec.micro_batch"]) == {4}
    assert list(large.run_id) == list(small.run_id)
    assert small.loss.to_numpy() == pytest.approx(large.loss.to_numpy(), rel=1e-5)


def test_a_run_that_fixes_its_micro_batch_is_not_changed(
    tiny: list[str], tmp_path: Path, small_machine: None
) -> None:
    told = work(message(*tiny, "micro_batch=4", "eval_batch=4"), tmp_path)
    assert told[-1]["event"] == "failed"
    assert "out of memory with micro_batch=4, which is part of the run" in told[-1]["error"]


def test_one_sequence_too_much_is_said(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean_loss(state: Any, ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(loop, "mean_loss", mean_loss)
    told = work(message(*tiny), tmp_path)
    assert told[-1]["error"].startswith("out of memory with a single sequence of 32 tokens")
    assert [m["text"].split(": ")[-1] for m in told if m["event"] == "note"] == [
        "again with 2 sequences at a time",
        "again with 1 sequences at a time",
    ]


def test_a_micro_batch_must_divide_the_batch(tiny: list[str], tmp_path: Path) -> None:
    unit = message(*tiny) | {"exec": plain(Exec(device="cpu", threads=1, micro_batch=3))}
    told = work(unit, tmp_path)
    assert "exec.micro_batch must divide the 4 sequences of a batch, got 3" in told[-1]["error"]


def test_what_a_unit_prints_is_kept(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, whole = message(*tiny), loop.mean_loss

    def mean_loss(state: Any, ids: torch.Tensor) -> torch.Tensor:
        if state.step == 7:
            os.write(2, b"the driver complains\n")
        return whole(state, ids)

    work(unit, tmp_path)
    assert not list((tmp_path / "logs").iterdir())  # nothing was printed
    monkeypatch.setattr(loop, "mean_loss", mean_loss)
    work(unit, tmp_path / "b")
    assert Store(tmp_path / "b").log(unit["unit"]).read_text() == "the driver complains\n"


def test_an_error_is_in_the_log_with_its_traceback(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mean_loss(state: Any, ids: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("no")

    monkeypatch.setattr(loop, "mean_loss", mean_loss)
    unit = message(*tiny)
    assert work(unit, tmp_path)[-1]["error"] == "ArithmeticError: no"
    assert "Traceback" in Store(tmp_path).log(unit["unit"]).read_text()
    error = json.loads((Store(tmp_path).run(run_id(compose(tiny))) / "error.json").read_text())
    assert error["error"] == "ArithmeticError: no"


@pytest.mark.parametrize("looks", [1, 3, 6, 8])
def test_stopped_anywhere_and_gone_on_with(tiny: list[str], tmp_path: Path, looks: int) -> None:
    """Also within an evaluation: the same frame as without a stop."""
    unit, told, count = message(*tiny, "data.eval_tokens=2048"), [], 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == looks

    execute(unit, Store(tmp_path / "a"), told.append, stop)
    assert told[-1] == {"event": "stopped"}
    (line,) = Store(tmp_path / "a").log(unit["unit"]).read_text().splitlines()
    said = re.fullmatch(
        r"(\S+): interrupted at step (\d+) of (10|20); the same command goes on", line
    )
    assert said, line
    assert said[1] in {run_id(compose([*tiny, "data.eval_tokens=2048", f"tokens={D}"])) for D in (1280, 2560)}  # fmt: skip
    work(unit, tmp_path / "a")
    work(unit, tmp_path / "b")
    a, b = (load(tmp_path / name).drop(columns="seconds") for name in "ab")
    pd.testing.assert_frame_equal(a, b)
    assert len(a) == 2


def test_whoever_does_not_train_leaves_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("precisionlaws.sweep.worker.os._exit", codes.append)
    leave, lease = Leave(), acquire(tmp_path / "unit.json")
    assert lease is not None
    leave.leases = [lease]
    with leave.training():
        leave.ask()
        assert (leave.asked.is_set(), codes) == (True, [])  # it looks, saves and goes by itself
        assert lease.path.exists()
    leave.ask()
    assert codes == [0]
    assert not lease.path.exists()
