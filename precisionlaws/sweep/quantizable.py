"""What of a store can be quantized after training, and what that would make: before any work."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError
from precisionlaws.models.count import shapes
from precisionlaws.overrides import expand
from precisionlaws.ptq.base import Ptq, eval_id
from precisionlaws.run import RunConfig, run_id, stored_config
from precisionlaws.store import Store, load, read_json
from precisionlaws.sweep.points import PARTS, allowed

if TYPE_CHECKING:
    import pandas as pd

Job = tuple[RunConfig, list[Ptq]]


def quantize_plan(
    store: str | Path,
    method: str,
    bits: str,
    options: Sequence[str] = (),
    where: str | None = None,
    low_precision: bool = False,
) -> dict[str, Any]:
    """What `quantize` would make: per method and width, points and bits with everything that is stored (None
    where only the payload will tell); to_do: points that the store has not."""
    ptqs, files = methods(method, bits, options), Store(store)
    jobs = quantizable(store, ptqs, where, low_precision)
    rows = [plan_row(ptq, jobs, files) for ptq in ptqs]
    return {
        "methods": [row for row in rows if row["points"]],
        "runs": sum(bool(ptqs) for _, ptqs in jobs),
        "points": sum(row["points"] for row in rows),
        "to_do": sum(row["to_do"] for row in rows),
        "warnings": few_tokens(jobs),
    }


def plan_row(ptq: Ptq, jobs: Sequence[Job], files: Store) -> dict[str, Any]:
    runs = [run for run, ptqs in jobs if ptq in ptqs]
    found = [b for run in runs if (b := bits_effective(ptq, run)) is not None]
    return {
        "method": ptq.SHORT,
        "bits": ptq.bits,
        "bits_effective": [min(found), max(found)] if found else None,
        "points": len(runs),
        "to_do": sum(not files.has(run_id(run), eval_id(ptq)) for run in runs),
    }


def bits_effective(ptq: Ptq, run: RunConfig) -> float | None:
    """Of all block matrices of a run."""
    stored, weights = 0.0, 0
    for _, *shape in shapes(run.model, run.size):
        bits, values = ptq.bits_effective(shape), math.prod(shape)
        if bits is None:
            return None
        stored, weights = stored + bits * values, weights + values
    return stored / weights


def few_tokens(jobs: Sequence[Job]) -> list[str]:
    """Methods whose H will have fewer tokens than a matrix has inputs."""
    said = {}
    for run, ptqs in jobs:
        widest = max(inner for _, _, inner in shapes(run.model, run.size))
        for ptq in ptqs:
            if (tokens := getattr(ptq, "calibration_tokens", widest)) < widest:
                said[ptq.SHORT, tokens] = max(widest, said.get((ptq.SHORT, tokens), 0))
    return [
        f"{name}: {tokens} calibration tokens cannot tell {widest} inputs apart"
        for (name, tokens), widest in said.items()
    ]


def layer_warnings(store: str | Path, frame: "pd.DataFrame") -> list[str]:
    """What methods warn of, a line per matrix of the rows of `frame`."""
    if "ptq.info.warnings" not in frame:
        return []
    files, out = Store(store), []
    bad = frame[frame["ptq.info.warnings"] > 0]
    for run, point in zip(bad.run_id, bad.eval_id, strict=True):
        path = files.layers(run, point)
        layers = read_json(path) if path.exists() else {}
        out += [f"{run} {point}: {n}: {q['warning']}" for n, q in layers.items() if "warning" in q]
    return out


def quantizable(
    store: str | Path, ptqs: Sequence[Ptq], where: str | None, low_precision: bool
) -> list[Job]:
    """The runs that can be quantized, each with what it can be quantized to, all of it checked."""
    from precisionlaws.where import where as chosen_rows

    if not Path(store).is_dir():
        raise ConfigError(
            f"{str(store)!r} is not a store: quantize needs the checkpoints of its runs"
        )
    frame = load(store)
    rows = frame if where is None else chosen_rows(frame, where)
    files, jobs = Store(store), []
    for name in dict.fromkeys(  # recorded runs of other loops have no checkpoint of ours
        rows[
            (rows.eval_id == "final")
            & ((rows.P_w == 16) | low_precision)
            & (rows.status == "finished")
            & ~rows.run_id.str.startswith("ext-")
        ].run_id
    ):
        run, fingerprint = stored_config(files.run(name) / "config.yaml")
        same_data(run, name, fingerprint)
        weights = run.quant.weights
        mine = [p for p in ptqs if weights.off or p.bits < weights.bits]
        for ptq in mine:
            allowed(run, ptq)
        jobs.append((run, mine))
    if not any(mine for _, mine in jobs):
        raise ConfigError(
            f"store {str(store)!r} has no finished run with "
            + ("weights of more bits" if low_precision else "unquantized weights")
            + " to quantize here"
        )
    return jobs


def methods(method: str, bits: str, options: Sequence[str]) -> list[Ptq]:
    """Every method at every width. Options of all of them, or, 'gptq.act_order=false', of one."""
    names, out = [n.strip() for n in method.split(",")], []
    for name in names:
        own = [o for o in options if owner(o, names) in (name, None)]
        texts = [f"ptq={name}", f"ptq.bits={bits}"]
        texts += [f"ptq.{o.removeprefix(f'{name}.')}" for o in own]
        out += expand(texts, "job", RunConfig, PARTS)[1]["ptq"]
    return list(dict.fromkeys(out))


def owner(option: str, names: Sequence[str]) -> str | None:
    """The method that an option is for; None: all."""
    field = option.partition("=")[0]
    return next((n for n in names if field.startswith(f"{n}.")), None)


def same_data(run: RunConfig, name: str, fingerprint: str) -> None:
    """δ must be measured on the sequences that the run was measured on."""
    if run.data.fingerprint() != fingerprint or run_id(run) != name:
        raise ConfigError(
            f"run {name} was trained on data {fingerprint[:12]}, {run.data.origin()} holds "
            f"{run.data.fingerprint()[:12]} here: install the same version"
        )
