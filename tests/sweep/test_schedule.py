"""Units know what is there of them already: what they will train is what is then trained."""

from pathlib import Path

import pytest
import torch

from precisionlaws.config import build
from precisionlaws.overrides import option
from precisionlaws.run import Exec
from precisionlaws.store import Store
from precisionlaws.sweep.dry_run import estimate, table
from precisionlaws.sweep.points import Study, study
from precisionlaws.sweep.recorded import jobs_of
from precisionlaws.sweep.schedule import progress, steps_between, units
from precisionlaws.training import loop
from precisionlaws.training.unit import train_runs

EXEC: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]


@pytest.mark.parametrize(
    "orders", [[(1280, 5120), (2560, 10240)], [(10240,), (1280, 5120)], [(2560,), (2560,)]]
)
def test_what_is_planned_is_what_is_trained(
    tiny: list[str], orders: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of trunks that are extended, or that branches leave before where they were saved."""
    torch.set_num_threads(1)
    trained: list[int] = []
    at = loop.Batches.at
    monkeypatch.setattr(loop.Batches, "at", lambda self, s: (trained.append(s), at(self, s))[1])
    store = Store(tmp_path)
    for order in orders:
        made = named(tiny, ",".join(map(str, order)), tmp_path)
        left = progress(store, made.points).missing(made.points)
        planned = sum(u.tokens for u in units(left, store=store))
        trained.clear()
        train_runs([p.run for p in made.points], store, EXEC)
        assert planned == len(trained) * 128


def named(tiny: list[str], tokens: str, folder: Path, **more: str) -> Study:
    block = dict(t.split("=", 1) for t in tiny) | {"tokens": tokens} | more
    path = folder / "mine.yaml"
    path.write_text(f"points: [{ {k: str(v) for k, v in block.items()} }]")
    return study(str(path))


def test_points_of_trained_runs_train_nothing(tiny: list[str], tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = named(tiny, "1280,2560", tmp_path, ptq="rtn", **{"ptq.bits": "3,4,5"})
    train_runs([p.run for p in made.points if p.eval_id == "final"], store, EXEC)
    done = progress(store, made.points)
    (unit,) = units(done.missing(made.points), store=store)
    assert unit.tokens == unit.flops == 0
    assert unit.evaluations == 2 * (3 + 1)  # each width, and what it is compared with
    assert unit.seconds == pytest.approx(8 * unit.eval_seconds)
    assert [j.step_seconds > 0 for j in jobs_of(unit)] == [True, True]
    numbers = estimate(made, done, store=store)
    assert numbers["to_do"]["tokens"] == 0
    assert "to do   6 points, about" in table(numbers)


def test_checkpoints_help_up_to_the_next_branch() -> None:
    assert steps_between([10, 30], []) == 30
    assert steps_between([30, 10], [5, 20]) == (10 - 5) + (30 - 20)
    assert steps_between([10, 30], [40]) == 30
    assert steps_between([10], [10, 11]) == 0
    assert steps_between([], [3]) == 0
