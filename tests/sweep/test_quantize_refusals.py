"""PTQ of finished runs that is interrupted, or asked for what cannot be: nothing is lost, one line says why."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from precisionlaws import store as files
from precisionlaws.cli import app
from precisionlaws.config import ConfigError
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import run_id
from precisionlaws.sweep import quantize as module
from precisionlaws.sweep.api import quantize
from precisionlaws.sweep.quantizable import quantize_plan
from precisionlaws.sweep.quantize import quantize_run
from precisionlaws.training.loop import Interrupted
from tests.sweep.trained import EXEC, the_run, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def test_too_few_training_tokens_is_an_error_in_words(tiny: list[str], tmp_path: Path) -> None:
    store = trained(tiny, tmp_path)
    with pytest.raises(ConfigError, match="ptq.calibration_tokens must be at most the"):
        quantize_run(the_run(tiny), [method_of("gptq", calibration_tokens=10**6)], store, EXEC)


def test_a_plan_refuses_what_the_command_would(tiny: list[str], tmp_path: Path) -> None:
    store = trained(tiny, tmp_path)
    with pytest.raises(ConfigError, match="ptq.group must divide the 16 inputs"):
        quantize_plan(store.root, "gptq", "3", ["granularity=group", "group=32"])
    with pytest.raises(ConfigError, match="ptq.static_groups must be true with act_order"):
        quantize_plan(store.root, "gptq", "3", ["granularity=group", "static_groups=false"])
    with pytest.raises(ConfigError, match="no finished run"):
        quantize_plan(store.root, "gptq", "3", where="seed == 7")


def test_interrupted_between_and_within_points(tiny: list[str], tmp_path: Path) -> None:
    """What is done is kept, and the same call goes on to the same rows."""
    run, ptqs = the_run(tiny), [method_of(m, bits=b) for m in ("rtn", "awq") for b in (3, 4)]
    rows: list[list[dict[str, object]]] = []
    for name, stops in (("whole", ()), ("stopped", (0, 2, 3))):
        store, kept = trained(tiny, tmp_path / name), []
        for k in stops:  # asked before every point and every batch of an evaluation
            asked = iter(range(10**6))
            with pytest.raises(Interrupted):
                quantize_run(run, ptqs, store, EXEC, stop=lambda k=k, n=asked: next(n) >= k)
            kept.append(len(list(store.root.rglob("points/*.json"))))
        assert kept == sorted(kept)
        assert len(ptqs) not in kept
        quantize_run(run, ptqs, store, EXEC)
        found = [files.read_json(store.point(run_id(run), eval_id(p))) for p in ptqs]
        rows.append([{k: v for k, v in r.items() if k != "seconds"} for r in found])
    assert rows[0] == rows[1]


def test_a_checkpoint_of_another_run_is_refused(tiny: list[str], tmp_path: Path) -> None:
    store = trained(tiny, tmp_path, (), ["seed=1"], ["size.width=32"])
    mine, other, wider = (
        module.checkpoint(the_run(tiny, *more), store)
        for more in ([], ["seed=1"], ["size.width=32"])
    )
    shutil.copy(other, mine)
    with pytest.raises(ConfigError, match="is not the one that gave its run's loss"):
        quantize(store.root, "rtn", "3")
    shutil.copy(wider, mine)
    result = json.loads((mine.parent / "result.json").read_text())
    result["checkpoint.sha256"] = json.loads((wider.parent / "result.json").read_text())[
        "checkpoint.sha256"
    ]
    (mine.parent / "result.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="does not fit its run"):
        quantize_run(the_run(tiny), [method_of("rtn")], store, EXEC)
    mine.unlink()
    with pytest.raises(ConfigError, match="has no checkpoint to quantize: leave it out by --where"):
        quantize(store.root, "rtn", "3")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--bits", "1.5"], "ptq.bits must be a whole number, got 1.5"),
        (["--method", "rtn,gtpq"], "ptq=gtpq: unknown ptq; did you mean 'gptq'"),
        (
            ["--set", "group=7", "--set", "granularity=group"],
            "ptq.group must divide the 16 inputs of",
        ),
        (["--set", "gptq.percdamp=0.1"], "ptq.gptq: no such field"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    tiny: list[str], tmp_path: Path, options: list[str], text: str
) -> None:
    store = trained(tiny, tmp_path)
    run = CliRunner().invoke(app, ["quantize", str(store.root), *options])
    assert isinstance(run.exception, ConfigError)
    assert text in str(run.exception)
    assert not list(store.root.rglob("points"))


def test_another_loss_than_the_stored_one_is_refused_whatever_parts_it_was_trained_by(
    tiny: list[str], tmp_path: Path
) -> None:
    """Evaluation is the same for all; of rows that lack the fact too."""
    store = trained(tiny, tmp_path)
    path = store.result(run_id(the_run(tiny)))
    row = json.loads(path.read_text())
    for parts in ({"exec.parts": "blocks"}, {}):
        path.write_text(json.dumps({k: v for k, v in row.items() if k != "exec.parts"} | parts | {"loss": row["loss"] + 0.1}))  # fmt: skip
        with pytest.raises(ConfigError, match="its result says"):
            quantize(store.root, "rtn", "3")
