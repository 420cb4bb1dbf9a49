"""PTQ points: quantize the weights of a finished run, measure the damage on the same sequences."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from precisionlaws import store as files
from precisionlaws.config import ConfigError, flat
from precisionlaws.ptq.application import model_bits, model_info, quantize_model
from precisionlaws.ptq.base import Calibrated, Ptq, eval_id
from precisionlaws.ptq.calibration import Calibration, calibrate, sample
from precisionlaws.run import Exec, RunConfig, run_id
from precisionlaws.store import Store
from precisionlaws.training.evaluate import Losses, measure
from precisionlaws.training.facts import device_of, exec_facts
from precisionlaws.training.loop import Interrupted
from precisionlaws.training.result import base_row
from precisionlaws.training.state import model_of, read


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
    weights, model = restored(run, store, exec)
    device = device_of(exec.device)
    before = measure(model, run, device)
    facts = exec_facts(exec, run)
    if before.mean != row["loss"] and all(row.get(k) == v for k, v in facts.items()):
        raise ConfigError(
            f"checkpoint {checkpoint(run, store)} gives loss {before.mean}, "
            f"its result says {row['loss']}"
        )
    measured = calibrations(model, run, todo)
    for ptq in todo:
        if stop():
            raise Interrupted
        start = time.perf_counter()
        model.load_state_dict(weights)
        quantized = quantized_row(model, ptq, run.seed, measured.get(inputs_of(ptq)))
        after = measure(model, run, device)
        losses = loss_row(after, before)
        seconds = {"seconds": time.perf_counter() - start}
        point = base_row(run, exec) | {"eval_id": eval_id(ptq)} | quantized | losses | seconds
        files.publish(store.point(name, eval_id(ptq)), point)
        done(eval_id(ptq), losses["delta_ptq"])


def checkpoint(run: RunConfig, store: Store) -> Path:
    return store.run(run_id(run)) / "checkpoint.safetensors"


def restored(run: RunConfig, store: Store, exec: Exec) -> tuple[dict[str, Tensor], nn.Module]:
    """The trained weights of a run, and a model that has them."""
    path = checkpoint(run, store)
    expected = files.read_json(store.result(run_id(run))).get("checkpoint.sha256")
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
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


def quantized_row(
    model: nn.Module, ptq: Ptq, seed: int, calibration: Calibration | None
) -> dict[str, Any]:
    """Quantize `model` in place; the columns that say how."""
    hessians = calibration.hessians if calibration else None
    matrices = quantize_model(model, ptq, seed, hessians)
    sizes = model_bits(matrices)
    info = model_info(matrices) | (calibration.info() if calibration else {})
    return {
        "P_post": sizes.nominal,
        "bits_effective": sizes.effective,
        "ptq": ptq.SHORT,
        **flat(ptq, "ptq"),
        **{f"ptq.info.{key}": value for key, value in info.items()},
    }


def loss_row(after: Losses, before: Losses) -> dict[str, Any]:
    delta, delta_se = after.delta(before)
    return {
        "loss": after.mean,
        "loss_se": after.standard_error,
        "delta_ptq": delta,
        "delta_ptq_se": delta_se,
        "status": "finished" if math.isfinite(after.mean) else "diverged",
    }


Inputs = tuple[int, int]  # calibration tokens, seed


def inputs_of(ptq: Ptq) -> Inputs | None:
    return (ptq.calibration_tokens, ptq.calibration_seed) if isinstance(ptq, Calibrated) else None


def calibrations(
    model: nn.Module, run: RunConfig, ptqs: Sequence[Ptq]
) -> dict[Inputs | None, Calibration]:
    """One pass of the unquantized model per set of calibration tokens, whatever the methods and widths."""
    wanted = {key for key in map(inputs_of, ptqs) if key}
    return {key: calibrate(model, sample(run.data, *key)) for key in sorted(wanted)}
