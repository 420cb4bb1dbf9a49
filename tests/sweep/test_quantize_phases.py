"""PTQ of weights before the learning rate decayed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from precisionlaws.config import ConfigError, plain
from precisionlaws.run import compose, run_id
from precisionlaws.store import Store, load, read_json
from precisionlaws.sweep.api import quantize
from precisionlaws.sweep.points import study
from precisionlaws.sweep.schedule import units
from precisionlaws.sweep.worker import execute
from precisionlaws.training.unit import train_runs
from tests.sweep.trained import EXEC, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def test_weights_before_the_decay(tiny: list[str], tmp_path: Path) -> None:
    """phase=stable: points of their own, paired with the undecayed loss, at the D of the branch point."""
    settings = dict(t.split("=", 1) for t in tiny) | {"tokens": "2560,5120"}
    settings |= {"ptq": "rtn", "ptq.bits": "3,4", "ptq.phase": "final,stable"}
    path, told = tmp_path / "study.yaml", []
    path.write_text(json.dumps({"points": [settings]}))
    plan = study(str(path))
    assert len(plan.points) == 2 * (2 + 4)
    store = Store(tmp_path / "s")
    for unit in units(plan.points):
        message = json.loads(json.dumps(unit.message() | {"exec": plain(plan.exec)}))
        execute(message, store, told.append, lambda: False)
    assert told[-1] == {"event": "done"}
    rows = load(store.root)
    assert len(rows) == 12
    before = rows[rows.phase == "stable"]
    assert set(before.D) == {16 * 128, 32 * 128}  # steps 16 of 20 and 32 of 40
    assert (before.flops < rows[rows.phase == "final"].flops.to_numpy()).all()
    for _, part in rows.groupby(["run_id", "phase"]):
        whole = part[part.P_post == 16].iloc[0]
        rounded = part[part.P_post < 16]
        assert len(rounded) == 2
        assert rounded.loss.to_numpy() == pytest.approx(whole.loss + rounded.delta_ptq.to_numpy())
    # The undecayed loss of the longer run is that of a run that never decays.
    alone = trained([*tiny, "tokens=4096", "lr_schedule.decay=0"], tmp_path / "alone")
    undecayed = before[(before.D == 4096) & (before.P_post == 16)]["loss"].tolist()
    assert undecayed == load(alone.root)["loss"].tolist()


def test_a_lost_trunk_is_trained_again_to_the_same_weights(tiny: list[str], tmp_path: Path) -> None:
    store = trained(tiny, tmp_path)
    first = quantize(store.root, "rtn", "3", ["phase=stable"])
    shutil.rmtree(store.root / "trunks")
    for point in store.root.rglob("points/*.json"):
        point.unlink()
    again = quantize(store.root, "rtn", "3", ["phase=stable"])
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), again.drop(columns="seconds"))
    assert set(again.phase) == {"stable"}


def test_a_cosine_has_no_stable_phase(tiny: list[str], tmp_path: Path) -> None:
    settings = dict(t.split("=", 1) for t in tiny if "lr_schedule" not in t)
    settings |= {"lr_schedule": "cosine", "ptq": "rtn", "ptq.phase": "stable"}
    (tmp_path / "study.yaml").write_text(json.dumps({"points": [settings]}))
    with pytest.raises(ConfigError, match="lr_schedule=cosine has no stable phase"):
        study(str(tmp_path / "study.yaml"))


@pytest.mark.parametrize("phase", ["final", "stable"])
def test_ptq_computes_by_torchs_parts_and_its_rows_say_how_the_run_was_trained(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Fine-tuning is of PTQ: its points do not depend on where the weights came from."""
    long = [*tiny, "model=gpt", "data.context=160", "data.eval_tokens=960", "batch_tokens=160", "tokens=1600"]  # fmt: skip
    stores = {way: Store(tmp_path / way) for way in ("auto", "torch")}
    for way, store in stores.items():
        train_runs([compose(long)], store, replace(EXEC, device="cpu", parts=way))
    rows = {w: read_json(store.result(run_id(compose(long)))) for w, store in stores.items()}
    assert {way: row["exec.parts"] for way, row in rows.items()} == {"auto": "blocks gelu", "torch": "torch"}  # fmt: skip
    monkeypatch.setattr(
        "precisionlaws.models.blocked.attend", None
    )  # (the trunk's checkpoint is there)
    options = ["finetune=end_to_end", f"phase={phase}", "calibration_tokens=1600"]
    quantize(str(stores["auto"].root), "quip_sharp", "4", options)
    if phase == "final":  # quantized with the default `exec`, of a run that was not trained with it
        quantize(str(stores["torch"].root), "quip_sharp", "4", options)
    for way, store in stores.items():
        points = load(store.root).query("eval_id != 'final'")
        assert set(points["exec.parts"]) == ({rows[way]["exec.parts"]} if len(points) else set())
