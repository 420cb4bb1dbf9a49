"""A grid that is trimmed to a time keeps what answers its questions."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precisionlaws.cli.foresight import trimmed
from precisionlaws.config import ConfigError
from precisionlaws.planning.information import Design, Worth
from precisionlaws.planning.prior import default
from precisionlaws.store import Store, write
from precisionlaws.sweep.budget import Grid, Trimmed, budget_seconds, design, names, trim
from precisionlaws.sweep.dry_run import wall
from precisionlaws.sweep.points import Point, Study, study
from precisionlaws.sweep.rates import IDLE, Rates
from precisionlaws.sweep.recorded import record
from precisionlaws.sweep.schedule import progress, units

CLI = [sys.executable, "-m", "precisionlaws.cli", "sweep"]


@dataclass
class Equal:
    """Every run is worth the same."""

    gone: set[str] = field(default_factory=set)

    def criterion(self, without: Iterable[str] = (), back: Iterable[str] = ()) -> float:
        return float(len(self.gone.union(without).difference(back)))

    def drop(self, runs: Iterable[str]) -> None:
        self.gone |= set(runs)

    def restore(self, runs: Iterable[str]) -> None:
        self.gone -= set(runs)


@pytest.fixture(scope="module")
def demo() -> Study:
    return study("demo")


def never(point: Point) -> bool:
    return False


def worth(made: Study) -> Worth:
    table = design(made.points)
    return Worth([Design(default(table), table)])


def seconds_of(points: Iterable[Point]) -> float:
    return wall([u.seconds for u in units(points)], 2)


@pytest.fixture(scope="module")
def cut(demo: Study) -> Trimmed:
    return trim(demo.points, never, 60.0, 2, IDLE, worth(demo))


def test_what_is_kept_fits_and_uses_the_time(demo: Study, cut: Trimmed) -> None:
    assert cut.before == pytest.approx(seconds_of(demo.points))
    assert cut.after == pytest.approx(seconds_of(cut.kept), rel=1e-6)
    assert 50 < cut.after <= 60
    kept, dropped = {p.run_id for p in cut.kept}, {r for r in map(id, cut.dropped)}
    assert len(kept) + len(dropped) == 168


def test_baselines_three_sizes_and_three_D_stay(cut: Trimmed) -> None:
    runs = {p.run_id: p.run for p in cut.kept}.values()
    plain = [r for r in runs if not r.quant.roles()]
    cells = {(r.size.width, r.seed, r.D) for r in plain}
    assert all((r.size.width, r.seed, r.D) in cells for r in runs)
    assert len({r.N for r in plain}) == 3
    assert len({r.D for r in plain}) >= 3
    for r in plain:  # a run keeps its PTQ points
        assert sum(p.run is r for p in cut.kept) == 6


def test_the_same_study_is_cut_the_same_way(demo: Study, cut: Trimmed) -> None:
    again = trim(demo.points, never, 60.0, 2, IDLE, worth(demo))
    assert again == cut


def test_every_question_keeps_an_answer(demo: Study, cut: Trimmed) -> None:
    table = design(cut.kept)
    for e in Design(default(design(demo.points)), table).expected():
        if e.name.startswith("eff_") or e.name in ("gamma_D", "N_opt_exponent"):
            assert np.isfinite(e.half), e.name


def test_what_was_finished_stays(demo: Study) -> None:
    paid = {p.run_id for p in demo.points if p.run.size.width == 48}
    cut = trim(demo.points, lambda p: p.run_id in paid, 20.0, 2, IDLE, worth(demo))
    assert paid <= {p.run_id for p in cut.kept}
    assert cut.after <= 20 < cut.before
    assert seconds_of(p for p in cut.kept if p.run_id not in paid) == pytest.approx(cut.after)


def test_a_budget_that_holds_all_drops_nothing(demo: Study) -> None:
    cut = trim(demo.points, never, 3600.0, 2, IDLE, Equal())
    assert cut.dropped == ()
    assert cut.kept == demo.points


def test_what_is_dear_goes_first_where_all_is_worth_the_same(demo: Study) -> None:
    cut = trim(demo.points, never, 60.0, 2, IDLE, Equal())
    mean = [np.mean([r.N * r.D for r in runs]) for runs in (cut.dropped, {p.run_id: p.run for p in cut.kept}.values())]  # fmt: skip
    assert mean[0] > 2 * mean[1]


def test_a_single_unit_longer_than_the_budget_is_cut_itself() -> None:
    made = study("chinchilla", ["tokens=125k,250k,500k,64M", "seed=0,1"])
    longest = max(u.seconds for u in units(made.points))
    cut = trim(made.points, never, longest / 4, 1000, IDLE, worth(made))
    assert 0 < len(cut.dropped) < 12
    assert {r.D for r in cut.dropped} == {max(r.D for r in cut.dropped)}


def test_a_budget_that_is_too_little_says_what_is_needed(demo: Study) -> None:
    with pytest.raises(ConfigError, match="too little for this study: .* it takes about [0-9]+ s"):
        trim(demo.points, never, 1.0, 2, IDLE, worth(demo))


def test_the_names_of_what_is_dropped(demo: Study, cut: Trimmed) -> None:
    lines = names(cut.dropped)
    assert lines == sorted(lines)
    for run in cut.dropped:
        key = f"llama d{run.size.depth}w{run.size.width} {run.quant.label()}: D = "
        (line,) = [x for x in lines if x.startswith(key)]
        seeds = next(part for part in line.split(")") if f" {run.D:,}" in part).split("(seed")[1]
        assert str(run.seed) in seeds.strip("s ").split(", ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200), ("1.5d", 129_600), (" 2 h ", 7200)]
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "0h", "2", "5 parsecs", "-2h", "h", "nan h", "1e3s", ""])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget must be a positive time such as 90s"):
        budget_seconds(text)


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*CLI, *options], capture_output=True, text=True, cwd=folder)


def test_the_command_names_what_it_drops_and_what_that_costs(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--dry-run", "--budget", "1min", "--json")
    n = json.loads(done.stdout)
    assert n["seconds"] <= 60 < n["budget"]["before"]
    assert n["runs"] + len(n["budget"]["dropped"]) == 168
    (expected,) = n["expected"]
    for q in expected["quantities"]:
        assert q["low"] < q["value"] < q["high"]
        assert q["half"] > 0.99 * q["half_before"]
    assert {"eff_w[3]", "gamma_D"} <= {q["name"] for q in expected["quantities"]}
    text = run(tmp_path, "demo", "size=7k", "--dry-run", "--prior", "neff_kumar", "--target", "eff_w(4)=0.001", "--seeds", "3")  # fmt: skip
    assert text.returncode == 0, text.stderr
    assert "84 runs" in text.stdout  # 4 D × 7 formats × 3 seeds
    assert "eff_w(4)" in text.stdout
    assert "target  eff_w(4) ± 0.001: no number of seeds" in text.stdout


def options(line: str) -> list[str]:
    return ["precisionlaws", "sweep", "demo", "--dry-run", *line.split()]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--budget 0", "--budget must be a positive time"),
        ("--budget 5parsecs", "--budget must be a positive time"),
        ("--budget 1s", "--budget 1 s is too little for this study"),
        ("--target gamma_D=0.1", "--target needs --prior"),
        (
            "--prior neff_kumar --target gamma_D=0.1",
            "no quantity 'gamma_D' here; there are A, alpha",
        ),
        (
            "--prior neff_kumar --target eff_w(3)=few",
            "--target eff_w(3) must be a number, got 'few'",
        ),
        ("--prior neff_kumar --target eff_w(3)=-1", "must be a positive half width, got -1"),
        ("--prior kumar", "no law or term 'kumar'"),
        ("--prior none.json", "none.json cannot be read: No such file"),
        ("--prior chinchilla+deff_free", "has no published constants to plan with; these have: "),
        ("--seeds 2 seed=0,1", "give --seeds or an override of seed=, not both"),
    ],
)
def test_mistakes_are_one_line(
    line: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from precisionlaws.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", options(line))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert error in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def spread(prior: Any, points: Iterable[Point], replicates: int = 60) -> float:
    """Geometric mean over efficiencies of the spread of their logs in fits of simulated studies."""
    from precisionlaws.fitting.objective import block
    from precisionlaws.fitting.solve import minimise
    from precisionlaws.planning.information import HUBER

    rows = Design(prior, design(tuple(points))).rows
    rows = rows[rows["P_post"] == 16].reset_index(drop=True)
    b = block("loss", prior.law, rows, prior.centre)  # parameters of the widths that are there
    start = dict(zip((q.name for q in prior.blocks["loss"].params), prior.u["loss"], strict=True))
    u0 = np.array([start[q.name] for q in b.params])
    y, rng = np.repeat(b.y[None], replicates, 0), np.random.default_rng(0)
    for sd, keys in zip(
        prior.noise["loss"].sd, (["family"], ["family", "D"], ["run_id"]), strict=True
    ):
        group = rows.groupby(keys, sort=False).ngroup().to_numpy()
        y += sd * rng.standard_normal((replicates, group.max() + 1))[:, group]
    u = minimise(b, np.repeat(u0[None], replicates, 0), HUBER, y=y, steps=200).u
    eff = [j for j, q in enumerate(b.params) if q.name.startswith("eff_")]
    return float(np.exp(np.mean(np.log(u[:, eff].std(0)))))


@pytest.mark.slow
def test_what_is_kept_tells_more_than_a_random_cut_of_the_same_cost(
    demo: Study, cut: Trimmed
) -> None:
    prior = default(design(demo.points))
    ours, others = spread(prior, cut.kept), []
    for seed in range(8):
        rng, grid = np.random.default_rng(seed), Grid(demo.points, never, IDLE)
        order = [sorted(grid.todo)[i] for i in rng.permutation(len(grid.todo))]
        for runs in ([n] for n in order):
            if not grid.fits(2, 60.0) and grid.has_baselines(runs) and grid.spans(runs):
                grid.change(runs, drop=True)
        kept = [p for p in demo.points if p.run_id not in grid.gone]
        assert seconds_of(kept) > 0.8 * cut.after  # it had no less time
        others.append(spread(prior, kept))
    whole = spread(prior, demo.points)
    assert whole < ours < 0.9 * float(np.median(others)), (whole, ours, others)


def test_a_sweep_that_goes_on_keeps_its_cut(tmp_path: Path) -> None:
    """Whatever is finished and known of the speed by then; of another command nothing is kept."""
    made, store = study("demo", ["seed=0"]), Store(tmp_path)
    table = design(made.points)
    slow, fast = Rates(overall=4.0), Rates()

    def cut(known: Rates, text: str = "2min", named: Sequence[str] = ()) -> tuple[Study, Any]:
        now = progress(store, made.points)
        believed = [Design(default(table), table)]
        return trimmed(made, store, now, known, text, budget_seconds(text), named, believed)

    first, seen = cut(slow)
    assert 0 < len(first.points) < len(made.points)
    assert seen.numbers["planned"] is None
    assert cut(fast)[0].points != first.points  # not begun
    plan = record(store, first.name, first.overrides, first.points, first.budget)
    again, seen = cut(fast)
    assert again == first
    assert seen.numbers["planned"] == str(store.study(plan.key))
    assert seen.numbers["after"] < seen.numbers["before"]
    assert f"to plan anew remove {store.study(plan.key)}" in seen.lines[0]
    for name in list(dict.fromkeys(p.run_id for p in first.points))[:3]:
        write(store.result(name), '{"status": "finished"}')
    assert cut(fast)[0] == first
    assert record(store, again.name, again.overrides, again.points, again.budget) == plan
    assert cut(fast, "3min")[0].points != first.points
    assert cut(fast, named=["another"])[0].points != first.points
    store.study(plan.key).unlink()
    assert cut(fast)[0].points != first.points
