"""PTQ of finished runs, end to end: one calibration for all, rows that say everything, δ that fall."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from precisionlaws import store as files
from precisionlaws.cli import app
from precisionlaws.config import ConfigError, plain
from precisionlaws.models.parts import linears
from precisionlaws.ptq import calibration
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import run_id
from precisionlaws.store import Store, load
from precisionlaws.sweep import quantize as module
from precisionlaws.sweep.api import quantize
from precisionlaws.sweep.points import allowed, study
from precisionlaws.sweep.quantize import quantize_run
from precisionlaws.sweep.schedule import units
from precisionlaws.sweep.worker import execute
from tests.sweep.trained import EXEC, the_run, trained

pytestmark = pytest.mark.usefixtures("one_thread")


def test_one_pass_of_calibration_serves_all_methods_and_widths(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = trained(tiny, tmp_path), the_run(tiny)
    passes: list[int] = []
    measure = calibration.hessians
    monkeypatch.setattr(calibration, "hessians", lambda m, b: passes.append(1) or measure(m, b))
    ptqs = [
        method_of("gptq", bits=b, act_order=a, calibration_tokens=512)
        for b in (3, 4)
        for a in (True, False)
    ]
    quantize_run(run, [*ptqs, method_of("rtn", bits=3)], store, EXEC)
    assert len(passes) == 1
    quantize_run(run, ptqs, store, EXEC)
    quantize_run(run, [method_of("rtn", bits=4)], store, EXEC)
    assert len(passes) == 1  # nothing to do; no method that looks at inputs
    few = method_of("gptq", calibration_tokens=64)
    quantize_run(
        run, [few, method_of("gptq", calibration_seed=1, calibration_tokens=64)], store, EXEC
    )
    assert len(passes) == 3
    assert len(load(tmp_path)) == 1 + 8


def test_a_row_does_not_depend_on_what_else_was_asked(tiny: list[str], tmp_path: Path) -> None:
    run = the_run(tiny)
    rows = []
    for name, others in (("alone", []), ("last", [method_of("rtn"), method_of("gptq", bits=2)])):
        store, mine = trained(tiny, tmp_path / name), [method_of("gptq"), method_of("rtn", bits=5)]
        quantize_run(run, [*others, *mine], store, EXEC)
        found = [files.read_json(store.point(run_id(run), eval_id(p))) for p in mine]
        rows.append([{k: v for k, v in r.items() if k != "seconds"} for r in found])
    assert rows[0] == rows[1]


def test_rows_say_how(tiny: list[str], tmp_path: Path) -> None:
    store, run = trained(tiny, tmp_path), the_run(tiny)
    gptq = method_of("gptq", bits=3, calibration_tokens=1000)
    quantize_run(run, [gptq, method_of("rtn", bits=3)], store, EXEC)
    frame = load(tmp_path).set_index("ptq", drop=False)
    row, plain = frame.loc["gptq"], frame.loc["rtn"]
    assert row["ptq.act_order"]
    assert row["ptq.percdamp"] == row["ptq.info.damping"] == 0.01
    assert 0 < row["ptq.info.relative_proxy"] < row["ptq.info.relative_proxy_rtn"] < 1
    assert row["ptq.info.warnings"] == 0
    assert row["ptq.info.calibration_tokens"] == 1024
    assert len(row["ptq.info.calibration"]) == 12
    assert row.P_post == 3 < row.bits_effective
    assert row.bits_effective == plain.bits_effective
    assert [c for c in frame if c.startswith("ptq.info.") and not pd.isna(plain[c])] == []


@pytest.mark.parametrize("quant", [[], ["quant.activations.bits=8", "quant.kv.bits=8"]])
def test_hessians_are_of_the_trained_model(
    tiny: list[str], quant: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run's weights and with its quantizers, whatever was quantized before."""
    store, run = trained([*tiny, *quant], tmp_path), the_run(tiny, *quant)
    used: list[calibration.Calibration | None] = []
    apply = module.quantize_model
    monkeypatch.setattr(
        module, "quantize_model", lambda m, p, s, H: used.append(H) or apply(m, p, s, H)
    )
    quantize_run(run, [method_of("rtn", bits=2), method_of("gptq")], store, EXEC)
    _, model = module.restored(run, store, EXEC)
    tokens = calibration.sample(run.data, 16384, 0)
    want = calibration.calibrate(model, tokens).hessians
    assert used[0] is None
    assert used[1] is not None
    got = used[1].hessians
    assert set(got) == {n for n, _ in linears(model)}
    assert all(torch.equal(got[n], H) for n, H in want.items())


def test_the_command(tiny: list[str], tmp_path: Path) -> None:
    store = trained(tiny, tmp_path / "s", (), ["seed=1"], ["quant=qat", "quant.weights.bits=4"])
    before = sorted(p for p in store.root.rglob("*") if p.is_file())
    command = ["quantize", str(store.root), "--method", "gptq", "--bits", "3,4"]
    command += ["--set", "granularity=group", "--set", "group=16"]
    run = CliRunner().invoke(app, [*command, "--dry-run"])
    assert run.exit_code == 0, run.output
    assert run.stdout == (
        "gptq at 3 bits (4 stored): 2 points, 2 of them to do\n"
        "gptq at 4 bits (5 stored): 2 points, 2 of them to do\n"
        "2 runs, 4 points, 4 of them to do\n"
    )
    assert sorted(p for p in store.root.rglob("*") if p.is_file()) == before
    made = CliRunner().invoke(app, [*command, "--json"])
    assert made.exit_code == 0, made.output
    rows = json.loads(made.stdout)
    assert sorted(r["P_post"] for r in rows) == [3, 3, 4, 4]
    again = CliRunner().invoke(app, [*command, "--dry-run", "--json", "--where", "seed == 1"])
    plan = json.loads(again.stdout)
    assert plan["methods"] == [
        {"method": "gptq", "bits": b, "bits_effective": [b + 1] * 2, "points": 1, "to_do": 0}
        for b in (3, 4)
    ]
    assert (plan["runs"], plan["points"], plan["to_do"], plan["warnings"]) == (1, 2, 0, [])


def test_a_worker_of_a_sweep_does_the_same(tiny: list[str], tmp_path: Path) -> None:
    """ptq=gptq in a study: through the JSON that workers are sent, equal to `quantize` afterwards."""
    settings = dict(t.split("=", 1) for t in tiny) | {"ptq": "gptq", "ptq.bits": "3,4"}
    path, told = tmp_path / "study.yaml", []
    path.write_text(json.dumps({"points": [settings]}))
    plan = study(str(path))
    for unit in units(plan.points):
        message = json.loads(json.dumps(unit.message() | {"exec": plain(plan.exec)}))
        execute(message, Store(tmp_path / "sweep"), told.append, lambda: False)
    assert told[-1] == {"event": "done"}
    rows = load(tmp_path / "sweep")
    quantize(trained(tiny, tmp_path / "after").root, "gptq", "3,4")
    after = load(tmp_path / "after")
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), after.drop(columns="seconds"))
    assert rows.delta_ptq.notna().sum() == 2


def test_gptq_hurts_less_than_rounding_to_nearest(tiny: list[str], tmp_path: Path) -> None:
    """On models that have learnt something, at 3 bits, on average over runs."""
    seeds = ([f"seed={s}", "tokens=40k"] for s in range(3))
    store = trained(tiny, tmp_path, *seeds)
    for options in ([], ["granularity=group", "grid=asymmetric", "range=mse"]):
        delta = {m: quantize(store.root, m, "3", options).delta_ptq.mean() for m in ("rtn", "gptq")}
        assert 0 < delta["gptq"] < 0.8 * delta["rtn"]


def test_several_methods_share_a_calibration_and_options_may_be_of_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, passes = trained(tiny, tmp_path), []
    measure = calibration.hessians
    monkeypatch.setattr(calibration, "hessians", lambda m, b: passes.append(1) or measure(m, b))
    options = ["grid=asymmetric", "gptq.act_order=false", "awq.clip=false"]
    rows = quantize(store.root, "rtn,gptq,awq", "2,3", options)
    assert len(passes) == 1
    assert sorted(rows.ptq) == sorted(["rtn", "gptq", "awq"] * 2)
    assert set(rows["ptq.grid"]) == {"asymmetric"}
    assert rows["ptq.act_order"].dropna().tolist() == [False] * 2
    assert rows["ptq.clip"].dropna().tolist() == [False] * 2
    assert rows.bits_effective.nunique() == 2  # scales of AWQ are folded: they cost nothing
    with pytest.raises(ConfigError, match="act_order: no such field"):
        quantize(store.root, "rtn,gptq", "3", ["act_order=false"])


def test_weights_trained_at_few_bits_are_rounded_on(tiny: list[str], tmp_path: Path) -> None:
    """From the numbers that the forward pass has, with activations and KV as in training (Eq. 9)."""
    low = ["quant.weights.granularity=group", "quant.activations.bits=6", "quant.kv.bits=8"]
    low += ["quant.weights.bits=6", "tokens=20k"]
    store = trained(tiny, tmp_path, (), low)
    with pytest.raises(ConfigError, match="no finished run with unquantized weights"):
        quantize(store.root, "rtn", "3", where="P_w == 6")
    options = ["granularity=group", "scale_dtype=float32"]
    rows = quantize(store.root, "rtn,gptq,awq", "3,5,6", options, "P_w == 6", low_precision=True)
    assert sorted(rows.P_post) == [3] * 3 + [5] * 3  # at 6 nothing is left to round
    assert set(rows.P_w) == {6}
    assert set(rows.P_a) == {6}
    assert rows.groupby("P_post").delta_ptq.mean().is_monotonic_decreasing
    run = the_run(tiny, *low)
    weights, model = module.restored(run, store, EXEC)
    used, plain = module.as_used(run, weights, model)
    ids = torch.arange(32).view(1, 32)
    with torch.no_grad():
        assert torch.equal(plain(ids), model(ids))
        name, linear = next(iter(linears(plain)))
        again = method_of("rtn", bits=6, granularity="group", scale_dtype="float32")
        q = again.quantize(linear.weight)
    torch.testing.assert_close(q.weight, linear.weight, rtol=1e-5, atol=1e-7)
    assert not torch.equal(used[f"{name}.weight"], weights[f"{name}.weight"])
    assert {k for k in used if "rounder" in k} <= set(plain.state_dict())


def test_layers_and_warnings(tiny: list[str], tmp_path: Path) -> None:
    """What a method says of every matrix is beside its point, and what it warns of is printed."""
    store = trained(tiny, tmp_path)
    command = ["quantize", str(store.root), "--method", "gptq", "--bits", "3"]
    command += ["--set", "calibration_tokens=32"]
    run = CliRunner().invoke(app, [*command, "--dry-run"])
    assert "warning: gptq: 32 calibration tokens cannot tell" in run.stdout
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0
    (path,) = store.root.rglob("layers/*.json")
    layers = json.loads(path.read_text())
    assert list(layers) == [n for n, _ in linears(module.restored(the_run(tiny), store, EXEC)[1])]
    (row,) = (load(store.root).query("ptq == 'gptq'")).to_dict("records")
    mean = sum(q["relative_proxy"] for q in layers.values()) / len(layers)
    assert row["ptq.info.relative_proxy"] == pytest.approx(mean)
    said = [n for n, q in layers.items() if "warning" in q]
    assert row["ptq.info.warnings"] == len(said) > 0
    assert all(
        f"warning: {row['run_id']} {row['eval_id']}: {n}: 32 calibration" in made.stderr
        for n in said
    )


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "quip", "quip_sharp"])
def test_activations_and_kv_may_be_rounded_beside_the_weights(
    method: str, tiny: list[str], tmp_path: Path
) -> None:
    """As in a run with the same weights that quantizes them; H is of the inputs so rounded."""
    store, run = trained(tiny, tmp_path), the_run(tiny)
    own = {"bits": 4} | ({"calibration_tokens": 512} if method != "rtn" else {})
    ptqs = [method_of(method, **own, activation_bits=a, kv_bits=k) for a, k in ((16, 16), (4, 3))]
    quantize_run(run, ptqs, store, EXEC)
    plain, rough = (files.read_json(store.point(run_id(run), eval_id(p))) for p in ptqs)
    assert rough["delta_ptq"] > plain["delta_ptq"]
    assert (rough["P_a"], rough["P_kv"]) == (16, 16)  # in training
    assert (rough["ptq.activation_bits"], rough["ptq.kv_bits"]) == (4, 3)
    low = the_run(tiny, "quant.activations.bits=4", "quant.kv.bits=3")
    weights, model = module.restored(run, store, EXEC)
    model = module.computing(low, weights, model)
    measured = module.calibrations(model, run, ptqs)
    row, _ = module.quantized_row(model, ptqs[1], run.seed, measured.get(module.inputs_of(ptqs[1])))
    assert module.measure(model, run, "cpu").mean == rough["loss"]
    if method != "rtn":
        assert row["ptq.info.relative_proxy"] == rough["ptq.info.relative_proxy"]
        assert row["ptq.info.relative_proxy"] != plain["ptq.info.relative_proxy"]


def test_what_was_trained_at_few_bits_is_not_rounded_again(tiny: list[str]) -> None:
    low = the_run(tiny, "quant.activations.bits=8")
    with pytest.raises(ConfigError, match="ptq.activation_bits=4 of a run whose activations were"):
        allowed(low, method_of("rtn", activation_bits=4))
    allowed(low, method_of("rtn", kv_bits=4))
    with pytest.raises(ConfigError, match="kv_bits must be 16 with ptq=none"):
        method_of("none", kv_bits=4)


def test_ids_of_points_are_for_ever() -> None:
    ids = {
        eval_id(method_of("rtn", bits=3)): "rtn3-c79db7a4d512",
        eval_id(method_of("rtn", bits=4, granularity="group")): "rtn4-ffa7a03e835d",
        eval_id(method_of("gptq", bits=3, granularity="group")): "gptq3-4aa83457e504",
        eval_id(method_of("gptq", bits=4)): "gptq4-2b62fe92667f",
        eval_id(method_of("rtn", bits=3, phase="stable")): "stable-rtn3-f88d7bcb09fe",
        eval_id(method_of("none")): "final",
    }
    assert list(ids) == list(ids.values())
