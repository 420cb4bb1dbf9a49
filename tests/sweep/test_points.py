"""Studies: unions of products, with every run's unquantized point."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.sweep.dry_run import estimate, table
from precisionlaws.sweep.points import SWEEPS, study
from precisionlaws.sweep.schedule import Progress, units

NOTHING = Progress(frozenset(), frozenset(), {})


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [p.stem for p in SWEEPS.glob("*.yaml")])
def test_every_shipped_study_is_valid_and_has_no_duplicates(name: str) -> None:
    made = study(name)
    keys = [(p.run_id, p.eval_id) for p in made.points]
    assert len(keys) == len(set(keys)) > 0
    assert {r for r, _ in keys} == {r for r, e in keys if e == "final"}
    assert made.questions


@pytest.mark.parametrize("name", ["chinchilla", "ptq", "qat", "low_precision", "kumar"])
def test_the_ladder_is_scaled_by_size_and_tokens_alone(name: str) -> None:
    small = study(name, ["size=7k,20k", "tokens=62.5k,125k"])
    assert {p.run.size.width for p in small.points} == {16, 32}
    assert {p.run.D for p in small.points} == {62_464, 124_928}
    assert estimate(small, NOTHING)["seconds"] < 600


def test_kumar_is_the_grid_of_the_paper() -> None:
    runs = {p.run_id: p.run for p in study("kumar").points}.values()
    assert len(runs) == 465
    per = Counter((r.size.width, round(r.D / 5e8)) for r in runs if len(r.quant.roles()) < 2)
    assert set(per.values()) == {25}
    assert len(per) == 4 * 4 + 2
    assert {round(r.N / 1e7) for r in runs} == {3, 6, 11, 21}
    roles = [r.quant.roles() for r in runs]
    assert {f.bits for q in roles for f in q.values()} == {3, 4, 5, 6, 7, 8, 10, 12}
    assert sum(len(q) == 3 for q in roles) == 15
    assert {q["activations"].granularity for q in roles if "activations" in q} == {"tensor"}  # type: ignore[attr-defined]


def test_planning_is_fast_and_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from precisionlaws.sweep.dry_run import estimate, table
from precisionlaws.sweep.points import study
from precisionlaws.sweep.schedule import Progress
table(estimate(study('kumar'), Progress(frozenset(), frozenset(), {})))
assert 'torch' not in sys.modules
"""
    start = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    end = os.times()
    assert end.children_user - start.children_user < 15  # measured: 3 on an idle core


def test_the_demo_fits_in_its_budget_with_trunks_counted_once() -> None:
    numbers = estimate(study("demo"), NOTHING)
    assert numbers["runs"] == 3 * 4 * 2 * 7
    assert numbers["points"] == 168 + 3 * 4 * 2 * 5
    assert numbers["units"] == 3 * 2 * 7
    assert 24e6 < numbers["tokens"] <= 25e6
    assert numbers["tokens_alone"] > 1.5 * numbers["tokens"]
    text = table(numbers)
    assert "168 runs, 288 points in 42 units" in text
    assert "24.6 M trained" in text


def test_the_demo_has_one_granularity_over_all_sizes_and_roles() -> None:
    """Scales per row are finer in narrow models: a confound with N."""
    groups = set()
    for point in study("demo").points:
        formats = [f for f in point.run.quant.roles().values()]
        used = formats + ([point.ptq] if point.eval_id != "final" else [])
        groups |= {(f.granularity, f.group) for f in used}  # type: ignore[attr-defined]
    assert groups == {("group", 16)}


def test_units_hold_runs_of_one_trunk_by_growing_D_longest_unit_first() -> None:
    made = units(study("demo").points)
    for unit in made:
        assert [r.steps for r in unit.runs] == sorted(r.steps for r in unit.runs)
        assert len({(r.seed, r.size, r.quant) for r in unit.runs}) == 1
    assert [u.seconds for u in made] == sorted((u.seconds for u in made), reverse=True)
    assert sum(len(p) for u in made for p in u.ptqs) == 120


def test_overrides_replace_a_key_in_every_block() -> None:
    made = study("demo", ["size=7k", "seed=0", "tokens=62.5k"])
    assert {p.run.size.width for p in made.points} == {16}
    assert len(made.points) == 7 + 5
    assert study("demo", ["launcher.workers=3"]).launcher.workers == 3  # type: ignore[attr-defined]


def test_blocks_are_a_union(tmp_path: Path) -> None:
    made = study(
        write(tmp_path, "points: [{seed: '0,1'}, {seed: '1,2', quant.weights.bits: '16,4'}]")
    )
    assert len(made.points) == 2 + 3


MISTAKES = {
    "points: []": "must hold `points:`",
    "point: [{seed: 1}]": "must hold `points:`",
    "[1, 2]": "must hold `points:`",
    "points: [{seed: 1}]\nplots: [fit]": "plots: no such key; did you mean 'plot'?",
    "points: ['seed=1']": "must be a mapping",
    "points: [{sede: 1}]": "sede: no such field; did you mean 'seed'?",
    "points: [{seed: 1}]\nfit: chinchilla": "fit must be a list of words",
    "points: [{seed: 1": "cannot be read",
    "points: [{ptq: rtn, quant.weights.bits: 4}]": "they are quantized already",
    "points: [{ptq: rtn, ptq.bits: 1}]": "ptq.bits must be 2 to 15, got 1",
    "points: [{size: 7k, ptq: rtn, ptq.granularity: group, ptq.group: 32}]": "ptq.group must divide the 16 inputs",
    "points: [{seed: 1}]\nfit: [chinchila]": "fit: no law 'chinchila'; did you mean 'chinchilla'?",
    "points: [{exec.threads: '1,2'}]": "exec cannot be swept",
    "points: [{launcher.workers: 0}]": "launcher.workers must be 1 to 4096, got 0",
    "points: [{launcher.partition: gpu}]": "launcher.partition: no such field; it is of launcher=slurm: add that",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_bad_study_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(write(tmp_path, text))
    assert MISTAKES[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no study 'dmeo'; did you mean 'demo'?"):
        study("dmeo")
    with pytest.raises(ConfigError, match="no study '/no/such.yaml'"):
        study("/no/such.yaml")
