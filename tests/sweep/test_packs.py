"""Which trunks a sweep trains as one batch, and that it does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec
from precisionlaws.store import load
from precisionlaws.sweep.memory import memory
from precisionlaws.sweep.points import Study, study
from precisionlaws.sweep.schedule import Unit, even, units
from precisionlaws.training.pack_rules import kinds, pack_key

ONE: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]


@pytest.fixture
def made(tiny: list[str], tmp_path: Path) -> Study:
    """9 trunks of two lengths in one shape, 2 in another."""
    settings = dict(text.split("=", 1) for text in tiny) | {"tokens": "2560,5120"}
    blocks = [
        settings | {"quant.weights.bits": "3,4,16", "seed": "0,1"},
        settings | {"quant": "low_precision", "seed": "0,1,2"},
        settings | {"size": "20k", "seed": "0,1", "ptq": "rtn", "ptq.bits": "3"},
    ]
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"points": blocks}))
    return study(str(path))


def runs(made: list[Unit]) -> set:
    return {r for u in made for r in u.runs}


def test_trunks_of_one_shape_are_packed_and_quantized_alike(made: Study) -> None:
    alone = units(made.points)
    packs = units(made.points, replace(ONE, pack=4), made.points)
    assert len(alone) == 11
    assert sorted(len(u.members) for u in packs) == [1, 2, 4, 4]
    assert {u.pack for u in packs} == {4}
    assert runs(packs) == runs(alone)
    for u in packs:
        assert len({pack_key(r) for r in u.runs}) == 1
        assert tuple(r for m in u.members for r in m.runs) == u.runs
    assert sum(u.tokens for u in packs) == sum(u.tokens for u in alone)
    assert sum(u.flops for u in packs) == pytest.approx(sum(u.flops for u in alone))
    assert sum(u.seconds for u in packs) < sum(u.seconds for u in alone)
    mixed = [{tuple(kinds(r)) for r in u.runs} for u in packs]
    assert sum(len(m) > 1 for m in mixed) <= 2  # only where one kind ends and another begins


def test_the_size_of_packs_is_that_of_the_whole_study(made: Study) -> None:
    whole = units(made.points, ONE, made.points)
    assert sorted((u.pack, len(u.members)) for u in whole) == [(2, 2), (5, 4), (5, 5)]
    last = [p for p in made.points if p.run == whole[0].runs[-1]]
    assert [(u.pack, len(u.members)) for u in units(last, ONE, made.points)] == [(whole[0].pack, 1)]
    assert [even(n, 8) for n in (1, 8, 9, 17, 24)] == [1, 8, 5, 6, 8]


def test_nothing_is_packed_where_it_does_not_pay() -> None:
    demo = study("demo")
    for exec in (ONE, replace(ONE, pack=1), replace(ONE, device="cuda")):
        assert units(demo.points, exec, demo.points) == units(demo.points)


def test_what_cannot_be_packed_is_refused(tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    settings = dict(text.split("=", 1) for text in tiny) | {"batch_tokens": "96", "seed": "0,1"}
    path.write_text(json.dumps({"points": [settings]}))
    odd = study(str(path))
    assert len(units(odd.points, ONE, odd.points)) == 2
    with pytest.raises(ConfigError, match=r"exec.pack must be 1 here, got 2: 96 tokens at once"):
        units(odd.points, replace(ONE, pack=2), odd.points)
    with pytest.raises(ConfigError, match="pack must be 1 to 1024, got 0"):
        replace(ONE, pack=0)


def test_a_sweep_in_packs_fills_its_store(made: Study, tmp_path: Path) -> None:
    """The same rows whatever was done before, and whichever worker did it."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "precisionlaws.cli",
        "sweep",
        str(tmp_path / "study.yaml"),
    ]

    def swept(store: Path, workers: int) -> pd.DataFrame:
        more = ["tokens=2560", f"launcher.workers={workers}", "--store", str(store)]
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not list((store / "claims").iterdir())
        return load(store).drop(columns="seconds").sort_values(["run_id", "eval_id"])

    frame = swept(tmp_path / "s", 2)
    assert set(frame["exec.pack"]) == {2, 5}
    assert set(frame.status) == {"finished"}
    assert len(frame) == 13
    shutil.copytree(tmp_path / "s" / "runs", tmp_path / "t" / "runs")
    for name in sorted(set(frame.run_id))[::2]:
        shutil.rmtree(tmp_path / "t" / "runs" / name)
    again = swept(tmp_path / "t", 1)
    pd.testing.assert_frame_equal(again.reset_index(drop=True), frame.reset_index(drop=True))


def test_a_pack_takes_the_memory_of_its_members(made: Study) -> None:
    one, four = (
        memory(units(made.points, exec, made.points), replace(exec, device="cpu"), 1)
        for exec in (replace(ONE, pack=1), replace(ONE, pack=4))
    )
    assert one
    assert four
    assert four.per_worker > one.per_worker
    assert four.disk == one.disk
