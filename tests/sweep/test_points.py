"""Studies: unions of products, with every run's unquantized point."""

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
    "points: [{ptq: rtn, quant.weights.bits: 4}]": "weights are quantized already",
    "points: [{ptq: rtn, ptq.bits: 1}]": "ptq.bits must be 2 to 15, got 1",
    "points: [{size: 7k, ptq: rtn, ptq.granularity: group, ptq.group: 32}]": "ptq.group must divide the 16 inputs",
    "points: [{exec.threads: '1,2'}]": "exec cannot be swept",
    "points: [{launcher.workers: 0}]": "launcher.workers must be 1 to 4096, got 0",
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
