"""What a study would cost: counts, time, price, repeated data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from precisionlaws.costs import gpu_hours
from precisionlaws.models.count import training_flops
from precisionlaws.sweep.dry_run import estimate, table, three
from precisionlaws.sweep.points import SWEEPS, Study, study
from precisionlaws.sweep.schedule import Progress

NOTHING = Progress(frozenset(), frozenset(), {})


@pytest.fixture(scope="module")
def kumar() -> Study:
    return study("kumar")


def test_a_study_for_gpus_has_a_price(kumar: Study) -> None:
    n = estimate(kumar, NOTHING, 0.4, 2.5)
    assert n["gpu"] == {
        "device": "H100", "mfu": 0.4, "price_per_hour": 2.5, "hours": n["gpu"]["hours"],
        "price": 2.5 * n["gpu"]["hours"],
    }  # fmt: skip
    assert n["gpu"]["hours"] == pytest.approx(gpu_hours(n["flops"]), rel=1e-3)
    assert n["gpu"]["hours"] > gpu_hours(n["flops"])  # evaluation is counted
    assert n["to_do"]["gpu_hours"] == n["gpu"]["hours"]
    text = table(n)
    assert "H100-hours at 40% MFU, 2,0" in text
    assert "at 2.50 per hour" in text
    half = estimate(kumar, NOTHING, 0.2, 5.0)["gpu"]
    assert half["price"] == pytest.approx(4 * n["gpu"]["price"])


def test_evaluations_are_forward_passes(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("points: [{size: 7k, tokens: 102400, ptq: rtn, ptq.bits: '3,4'}]")
    made = study(str(path))
    run = made.points[0].run
    per_token = training_flops(run.model, run.size, 256, 128, 1)
    evaluations = 1 + 2 + 1  # as trained, two roundings, and once more before them
    flops = per_token * (102_400 + evaluations * 131_072 / 3)
    assert estimate(made, NOTHING)["gpu"]["hours"] == pytest.approx(gpu_hours(flops))


def test_a_study_for_a_cpu_has_none_and_repeats_nothing() -> None:
    n = estimate(study("demo"), NOTHING)
    assert n["data"] == [{"data": "package", "tokens": pytest.approx(15.7e6, rel=0.1), "epochs": pytest.approx(0.032, rel=0.1)}]  # fmt: skip
    text = table(n)
    assert "H100" not in text
    assert "repeat" not in text
    assert 120 < n["seconds"] * n["workers"] < 1200


def test_what_is_left_is_priced_apart(kumar: Study) -> None:
    done = Progress(frozenset((p.run_id, p.eval_id) for p in kumar.points[:100]), frozenset(), {})
    n = estimate(kumar, done)
    assert 0 < n["to_do"]["gpu_hours"] < n["gpu"]["hours"]
    assert f"or {three(n['to_do']['gpu_hours'])} H100-hours" in table(n)


def test_repeated_sequences_are_said(kumar: Study) -> None:
    text = table(estimate(kumar, NOTHING))
    assert "package: the longest run goes 1,6" in text
    assert "sequences repeat; data=text data.path=... brings more" in text


def test_the_training_of_the_paper_is_planned_as_its_comment_says() -> None:
    text = (SWEEPS / "kumar.yaml").read_text()
    command = text[text.index("precisionlaws sweep kumar data=text") :].replace("#", " ")
    words = (
        command.replace("\\\n", " ").splitlines()[0].split()[5:]
    )  # all but the data of the paper
    made = study("kumar", words)
    assert {
        (r.batch, r.data.context, r.lr_schedule.SHORT) for r in (p.run for p in made.points)
    } == {(262_144, 1024, "cosine")}
    n = estimate(made, NOTHING)
    assert (n["runs"], n["units"]) == (465, 465)
    assert 1_400 < n["gpu"]["hours"] < 1_700  # what the comment states


def test_without_trunks_nothing_is_said_of_them() -> None:
    assert "trunk" in table(estimate(study("chinchilla", ["size=7k"]), NOTHING))
    alone = estimate(study("chinchilla", ["size=7k", "tokens=125k"]), NOTHING)
    assert "trunk" not in table(alone)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12_345.6, "12,300"), (832.4, "832"), (999.6, "1,000"), (31.26, "31.3"), (0.1234, "0.123")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three(value) == text


def test_the_command_takes_a_price_and_an_mfu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "precisionlaws.cli", "sweep", "demo", "size=7k", "--dry-run"]
    options = ["--price", "3", "--mfu", "0.25", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    n = json.loads(done.stdout)["gpu"]
    assert (n["price_per_hour"], n["mfu"]) == (3.0, 0.25)
    assert n["price"] == 3 * n["hours"]
    for option, value in (("--price", "-1"), ("--mfu", "40")):
        bad = subprocess.run(
            [*command, option, value], capture_output=True, text=True, cwd=tmp_path
        )
        assert bad.returncode == 2
        assert f"{option.strip('-')} must be" in bad.stderr
        assert "Traceback" not in bad.stderr


@pytest.mark.parametrize(
    ("tokens", "least"), [("64k,128k,256k,512k,1024k,2048k", 1.6), (",".join(f"{k * 64}k" for k in range(1, 13)), 3.0)]
)  # fmt: skip
def test_trunks_save_against_one_wsd_run_per_config_and_D(tokens: str, least: float) -> None:
    """Five doublings, and twelve even D, are what one trunk is made for."""
    made = study("ptq", ["size=7k,20k", f"tokens={tokens}", "seed=0", "ptq.bits=3,4"])
    n = estimate(made, NOTHING)
    assert n["tokens_alone"] == sum({p.run_id: p.run.D for p in made.points}.values())
    assert n["tokens_alone"] / n["tokens"] >= least
    assert (
        n["tokens_per_point"] == n["tokens_alone"] * 5
    )  # each run, and 2 widths × 2 granularities
    text = table(n)
    assert f"{n['tokens_alone'] / n['tokens']:.2f}x fewer than one WSD run per (config, D)" in text
    assert f"{n['tokens_per_point'] / n['tokens']:.2f}x fewer than one training per point" in text


def test_memory_and_disk_are_shown(kumar: Study) -> None:
    n = estimate(kumar, NOTHING)
    assert n["memory"]["per_worker"] > 2e9
    assert n["memory"]["disk"] > 465 * 4 * 30e6
    assert "memory  about" in table(n)
    assert "per worker" in table(n)
