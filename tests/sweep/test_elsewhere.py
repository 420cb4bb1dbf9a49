"""`sweep --done FRAME`: what another store has is neither trained nor waited for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.config import ConfigError, plain
from precisionlaws.store import Store, load
from precisionlaws.sweep.points import Point, Study, study
from precisionlaws.sweep.recorded import plans, record
from precisionlaws.sweep.schedule import Elsewhere, elsewhere, progress, units
from precisionlaws.sweep.worker import execute


@pytest.fixture
def study_file(tiny: list[str], tmp_path: Path) -> Path:
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "2560,5120"}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"points": [settings | {"ptq": "rtn", "ptq.bits": "3,4"}]}))
    return path


def sweep(study_file: Path, store: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["sweep", str(study_file), "--store", str(store), *more])


def work(plan: Study, points: Sequence[Point], store: Path) -> None:
    """What the workers of a sweep do, here."""
    told: list[dict[str, Any]] = []
    for unit in units(points):
        message = json.loads(json.dumps(unit.message() | {"exec": plain(plan.exec)}))
        execute(message, Store(store), told.append, lambda: False)
    assert not [m for m in told if m["event"] == "failed"]


def test_a_shipped_frame_counts_as_finished(study_file: Path, tmp_path: Path) -> None:
    """Half of a study made in one place and exported; the rest, and no more, in another."""
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "half.csv"
    half = study(str(study_file), ["tokens=2560", "ptq.bits=3"])
    work(half, half.points, first)
    exported = CliRunner().invoke(app, ["runs", "export", str(first), "-o", str(out)])
    assert exported.exit_code == 0, exported.output
    dry = sweep(study_file, second, "--done", str(out), "--dry-run")
    assert "to do   3 points" in dry.stdout
    assert "done    2 points elsewhere (--done)" in dry.stdout
    assert "cannot  1 PTQ points cannot be made here" in dry.stdout
    plan = study(str(study_file))
    before = progress(Store(second), plan.points, elsewhere(out))
    assert {p.run.D for p in before.missing(plan.points)} == {5120}
    record(Store(second), plan.name, (), before.here(plan.points))
    work(plan, before.missing(plan.points), second)
    frame = load(second)
    assert len(frame) == 3
    assert {j.run for p in plans(Store(second)) for j in p.jobs} == set(frame.run_id)
    done = sweep(study_file, second, "--done", str(out))
    assert done.exit_code == 0, done.output
    assert "5 of 6 points in" in done.stdout
    assert "2 of them elsewhere" in done.stdout
    assert "1 PTQ points cannot be made here: their runs were trained elsewhere" in done.stdout
    assert json.loads(sweep(study_file, second, "--done", str(out), "--json").stdout)["lost"] == 1
    work(plan, progress(Store(second), plan.points).missing(plan.points), second)
    at_home = json.loads(sweep(study_file, second, "--done", str(first), "--json").stdout)
    assert (at_home["finished"], at_home["elsewhere"], at_home["lost"]) == (6, 0, 0)
    study_file.write_text(json.dumps(json.loads(study_file.read_text()) | {"fit": ["chinchilla"]}))
    for done, store, table in ((out, second, second), (second, tmp_path / "third", second)):
        said = sweep(study_file, store, "--done", str(done)).stdout
        assert f"next: precisionlaws fit {table} --law chinchilla" in said


def test_diverged_elsewhere_is_diverged(study_file: Path, tmp_path: Path) -> None:
    points = study(str(study_file)).points
    run = points[0].run_id
    table = tmp_path / "t.csv"
    table.write_text(f"run_id,status,loss\n{run},diverged,\nother,finished,2.5\n")
    others = elsewhere(table)
    assert others == Elsewhere(frozenset({(run, "final"), ("other", "final")}), frozenset({run}))
    now = progress(Store(tmp_path / "s"), points, others)
    assert now.diverged == {run}
    assert not now.lost
    assert {p.run_id for p in now.missing(points)} == {p.run_id for p in points} - {run}
    assert {p.run_id for p in now.here(points)} == {p.run_id for p in points} - {run}


def test_a_frame_without_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("N,D,loss\n1,2,3\n")
    with pytest.raises(ConfigError, match="has no column 'run_id'"):
        elsewhere(tmp_path / "t.csv")
