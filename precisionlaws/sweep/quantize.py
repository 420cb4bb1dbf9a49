"""PTQ points: quantize the weights of a finished run, measure the damage on the same sequences.

Weights that were trained at fewer than 16 bits are rounded on as the forward pass has them, to fewer bits
(Kumar et al. 2024, Eq. 9). The weights are those that the run ended with, or (`phase=stable`) those at its branch point, before the
learning rate decayed, whose unquantized loss is then a point of its own: does D hurt, or the decay?
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from precisionlaws import store as files
from precisionlaws.config import ConfigError, flat
from precisionlaws.models.count import training_flops
from precisionlaws.models.own import TORCH
from precisionlaws.models.parts import choose, linears
from precisionlaws.ptq.application import model_bits, model_info, quantize_model
from precisionlaws.ptq.base import Calibrated, Ptq, eval_id
from precisionlaws.ptq.calibration import Calibration, calibrate, sample
from precisionlaws.quant.attachment import QuantLinear, clocks
from precisionlaws.quant.roles import OFF
from precisionlaws.run import Exec, RunConfig, run_id
from precisionlaws.store import Store
from precisionlaws.sweep.points import rounded
from precisionlaws.training.evaluate import Losses, measure
from precisionlaws.training.facts import device_of, exec_facts
from precisionlaws.training.loop import Interrupted, batches_of
from precisionlaws.training.pack_unit import at_branch
from precisionlaws.training.result import base_row
from precisionlaws.training.state import model_of, read
from precisionlaws.training.unit import Watch

Inputs = tuple[int, int]  # calibration tokens, seed


def quantize_run(
    run: RunConfig,
    ptqs: Sequence[Ptq],
    store: Store,
    exec: Exec,
    done: Callable[[str, float], None] = lambda eval_id, delta: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Publish every PTQ point of a finished run that the store has not; none if the run diverged.

    Raises: ConfigError for a damaged checkpoint or one that does not give its stored loss again.
    """
    name = run_id(run)
    todo = [p for p in ptqs if not store.has(name, eval_id(p))]
    row = files.read_json(store.result(name))
    if not todo or row["status"] != "finished":
        return
    final = [p for p in todo if p.phase == "final"]
    if final:
        weights, model = as_used(run, *restored(run, store, exec))
        before = measure(model, run, device_of(exec.device), exec, stop)
        same_loss(before, row, checkpoint(run, store), exec_facts(exec, run))
        trained = {k: row.get(k, older) for k, older in files.YOUNGER.items()}  # by the run itself
        publish_each(run, final, store, exec, (weights, model, before, trained), done, stop)
    stable = [p for p in todo if p.phase == "stable"]
    if stable:
        weights, model = as_used(run, *undecayed(run, store, exec, stop))
        before = measure(model, run, device_of(exec.device), exec, stop)
        at = branch_facts(run)
        point = store.point(name, "stable")
        if point.exists():
            same_loss(before, files.read_json(point), point, exec_facts(exec, run))
        else:
            loss = loss_row(before) | {"seconds": 0.0}
            files.publish(
                point, base_row(run, exec) | at | {"eval_id": "stable", "P_post": 16} | loss
            )
            done("stable", 0.0)
        others = [p for p in stable if eval_id(p) != "stable"]
        publish_each(run, others, store, exec, (weights, model, before, at), done, stop)


def publish_each(
    run: RunConfig,
    ptqs: Sequence[Ptq],
    store: Store,
    exec: Exec,
    unquantized: tuple[dict[str, Tensor], nn.Module, Losses, dict[str, Any]],
    done: Callable[[str, float], None],
    stop: Callable[[], bool],
) -> None:
    """Quantize the same weights by every method. unquantized: weights, model, losses, columns of the phase."""
    weights, model, before, at = unquantized
    alike: dict[tuple[int, int], list[Ptq]] = {}  # by what is rounded beside the weights
    for ptq in ptqs:
        alike.setdefault((ptq.activation_bits, ptq.kv_bits), []).append(ptq)
    for beside, group in sorted(alike.items(), reverse=True):  # (16, 16) first: the model as it is
        if beside != (16, 16):
            model = computing(rounded(run, group[0]), weights, model)
        measured = calibrations(model, run, group)
        for ptq in group:
            if stop():
                raise Interrupted
            publish_one(run, ptq, store, exec, (weights, model, before, at), measured, done, stop)


def publish_one(
    run: RunConfig,
    ptq: Ptq,
    store: Store,
    exec: Exec,
    unquantized: tuple[dict[str, Tensor], nn.Module, Losses, dict[str, Any]],
    measured: Mapping[Inputs | None, Calibration],
    done: Callable[[str, float], None],
    stop: Callable[[], bool],
) -> None:
    weights, model, before, at = unquantized
    start = time.perf_counter()
    model.load_state_dict(weights)
    quantized, layers = quantized_row(model, ptq, run.seed, measured.get(inputs_of(ptq)))
    after = measure(model, run, device_of(exec.device), exec, stop)
    losses = loss_row(after, before)
    seconds = {"seconds": time.perf_counter() - start}
    point = base_row(run, exec) | at | {"eval_id": eval_id(ptq)} | quantized | losses | seconds
    if layers:
        files.write(store.layers(run_id(run), eval_id(ptq)), json.dumps(layers, indent=1) + "\n")
    files.publish(store.point(run_id(run), eval_id(ptq)), point)
    done(eval_id(ptq), losses["delta_ptq"])


def same_loss(
    before: Losses, row: Mapping[str, Any], source: Path, facts: Mapping[str, Any]
) -> None:
    """Raises: ConfigError if weights on this machine do not give the loss that it stored for them."""
    deciding = {k: v for k, v in facts.items() if k != "exec.parts"}  # evaluation is torch's
    if before.mean != row["loss"] and all(row.get(k) == v for k, v in deciding.items()):
        raise ConfigError(f"{source} gives loss {before.mean}, its result says {row['loss']}")


def branch_facts(run: RunConfig) -> dict[str, Any]:
    """Columns of a point at the end of the stable phase."""
    D = run.lr_schedule.decay_start(run.steps) * run.batch
    flops = training_flops(run.model, run.size, run.data.vocab, run.data.context, D)
    return {"phase": "stable", "D": D, "flops": flops, "epochs": batches_of(run).epochs(D)}


def undecayed(
    run: RunConfig, store: Store, exec: Exec, stop: Callable[[], bool]
) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights at the branch point: from the trunk's checkpoint, trained again where that is gone."""
    state = at_branch(run, store, exec, Watch(stop=stop))
    choose(state.model, TORCH)  # as in every model that is quantized: `exec.parts` is of training
    return {k: v.clone() for k, v in state.model.state_dict().items()}, state.model


def checkpoint(run: RunConfig, store: Store) -> Path:
    return store.run(run_id(run)) / "checkpoint.safetensors"


def restored(run: RunConfig, store: Store, exec: Exec) -> tuple[dict[str, Tensor], nn.Module]:
    """The trained weights of a run, and a model that has them."""
    path = checkpoint(run, store)
    if not path.is_file():
        raise ConfigError(
            f"run {run_id(run)} has no checkpoint to quantize: leave it out by --where, "
            "or remove it (runs rm) and train it again"
        )
    expected = files.read_json(store.result(run_id(run))).get("checkpoint.sha256")
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ConfigError(
            f"checkpoint {path} is not the one that gave its run's loss (sha256 differs)"
        )
    weights, _ = read(path)
    model = model_of(run, device_of(exec.device))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"checkpoint {path} does not fit its run: {str(error).splitlines()[0]}"
        ) from None
    return weights, model


def as_used(
    run: RunConfig, weights: dict[str, Tensor], model: nn.Module
) -> tuple[dict[str, Tensor], nn.Module]:
    """The weights that forward passes multiply by, rounded if they were in training, in a model that
    quantizes all but weights."""
    if run.quant.weights.off:
        return weights, model
    with torch.no_grad():
        as_rounded = {
            f"{name}.weight": module.matrix().clone()
            for name, module in linears(model)
            if isinstance(module, QuantLinear)
        }
    plain = model_of(
        replace(run, quant=replace(run.quant, weights=OFF)), next(model.parameters()).device.type
    )
    used = {k: as_rounded.get(k, weights[k]) for k in plain.state_dict()}
    plain.load_state_dict(used)
    for clock in clocks(plain):  # before quantization begins, activations are not rounded either
        clock.active = all(c.active for c in clocks(model))
    return used, plain


def computing(run: RunConfig, weights: dict[str, Tensor], model: nn.Module) -> nn.Module:
    """A model with `weights` that quantizes activations and KV as `run` says."""
    made = model_of(run, next(model.parameters()).device.type)
    made.load_state_dict(weights)
    return made


def quantized_row(
    model: nn.Module, ptq: Ptq, seed: int, calibration: Calibration | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quantize `model` in place; the columns that say how, and what the method says of every matrix."""
    matrices = quantize_model(model, ptq, seed, calibration)
    sizes = model_bits(matrices)
    info = model_info(matrices) | (calibration.info() if calibration else {})
    row = {
        "P_post": sizes.nominal,
        "bits_effective": sizes.effective,
        "ptq": ptq.SHORT,
        **flat(ptq, "ptq"),
        **{f"ptq.info.{key}": value for key, value in info.items()},
    }
    return row, {n: dict(q.info) for n, q in matrices.items() if q.info}


def loss_row(after: Losses, before: Losses | None = None) -> dict[str, Any]:
    delta = (
        {}
        if before is None
        else zip(("delta_ptq", "delta_ptq_se"), after.delta(before), strict=True)
    )
    return {
        "loss": after.mean,
        "loss_se": after.standard_error,
        **dict(delta),
        "status": "finished" if math.isfinite(after.mean) else "diverged",
    }


def inputs_of(ptq: Ptq) -> Inputs | None:
    return (ptq.calibration_tokens, ptq.calibration_seed) if isinstance(ptq, Calibrated) else None


def calibrations(
    model: nn.Module, run: RunConfig, ptqs: Sequence[Ptq]
) -> dict[Inputs | None, Calibration]:
    """One pass of the unquantized model per set of calibration tokens, whatever the methods and widths."""
    wanted = {key for key in map(inputs_of, ptqs) if key}
    return {key: calibrate(model, sample(run.data, *key)) for key in sorted(wanted)}
