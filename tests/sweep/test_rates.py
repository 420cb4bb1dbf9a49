"""How fast this machine is, by what finished runs took."""

import json
from pathlib import Path
from typing import Any

import pytest

from precisionlaws.costs import cpu_seconds
from precisionlaws.run import Exec
from precisionlaws.store import Store
from precisionlaws.sweep.dry_run import estimate, table
from precisionlaws.sweep.points import study
from precisionlaws.sweep.rates import IDLE, Rates, device, rates, ratio
from precisionlaws.sweep.schedule import Progress, units
from precisionlaws.training.result import base_row

NOTHING = Progress(frozenset(), frozenset(), {})
CPU = Exec(device="cpu", threads=1)


def finished(store: Store, slower: dict[str, float], **other: Any) -> None:
    """Every run of a small study as if it had been trained so many times slower than estimated."""
    for point in study(
        "demo", ["tokens=62.5k", "quant.weights.bits=16", "quant.activations.bits=16"]
    ).points:
        if point.eval_id != "final" or point.run.quant.roles():
            continue
        row = base_row(point.run, CPU)
        seconds = cpu_seconds(
            row["flops"], row["D"] / row["batch_tokens"], 0, row["flops"] / row["D"]
        )
        row |= {"eval_id": "final", "status": "finished", "exec.device": "cpu", "exec.threads": 1}
        row |= {"seconds": seconds * slower[str(row["size.width"])]} | other
        path = store.result(point.run_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row))


def test_what_finished_runs_took_is_what_others_will(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert rates(store, CPU) == IDLE
    finished(store, {"16": 2.0, "32": 3.0, "48": 4.0})
    known = rates(store, CPU)
    assert known.runs == 6
    assert known.overall == pytest.approx(3.0)
    assert known.by_size == {}  # two runs of a size are too few
    made = study("demo")
    slow, idle = (estimate(made, NOTHING, known=k) for k in (known, IDLE))
    assert slow["seconds"] == pytest.approx(3 * idle["seconds"], rel=1e-6)
    assert "calibrated on 6 runs (3 times that of idle cores)" in table(slow)
    assert "no finished run to calibrate on" in table(idle)


def test_runs_of_packs_are_measured_by_what_packs_should_take() -> None:
    """A step of a pack is launched once: shares of that are not the speed of this machine."""
    for pack in (1, 4):
        for point in study("demo").points[::20]:
            row = base_row(point.run, CPU) | {"eval_id": "final", "exec.pack": pack}
            per_token, steps = row["flops"] / row["D"], row["D"] / row["batch_tokens"] / pack
            seconds = 3 * cpu_seconds(row["flops"], steps, 0, per_token)
            assert ratio(row | {"seconds": seconds}) == pytest.approx(3)


def test_a_size_with_enough_runs_has_its_own_rate() -> None:
    known = Rates(overall=3.0, runs=9, by_size={"llama 2 16": 2.0}, by_ptq={"rtn": 10.0})
    for unit in units(study("demo").points):
        factor = 2.0 if unit.runs[0].size.width == 16 else 3.0
        roundings = sum(map(len, unit.ptqs)) * (10.0 - factor) * unit.eval_seconds
        assert known.seconds(unit) == pytest.approx(factor * unit.seconds + roundings)


@pytest.mark.parametrize(
    "other",
    [{"exec.device": "cuda"}, {"exec.threads": 2}, {"status": "diverged"}, {"seconds": None}, {"flops": None}],
)  # fmt: skip
def test_rows_that_say_nothing_of_this_machine_are_left_out(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    finished(Store(tmp_path), {"16": 2.0, "32": 3.0, "48": 4.0}, **other)
    assert rates(Store(tmp_path), CPU) == IDLE


def test_a_real_run_calibrates(tmp_path: Path, tiny: list[str]) -> None:
    from precisionlaws.run import compose
    from precisionlaws.sweep.api import quantize
    from precisionlaws.training.train import train

    train(compose(tiny), tmp_path)
    quantize(tmp_path, "rtn", "3,4,5", ["granularity=group"])
    known = rates(Store(tmp_path), CPU)
    assert known.runs == 1
    assert 0 < known.overall < 1000
    assert set(known.by_ptq) == {"rtn"}


def test_the_device_is_known_without_torch() -> None:
    assert device(Exec(device="cuda", threads=1)) == "cuda"
    assert device(CPU) == "cpu"
