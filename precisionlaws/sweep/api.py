"""`sweep` and `quantize` for Python; the commands do the same and show progress."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import expand, option
from precisionlaws.ptq.base import Ptq, eval_id
from precisionlaws.run import Exec, RunConfig, run_id, stored_config
from precisionlaws.store import Store, load
from precisionlaws.sweep.engine import run_study
from precisionlaws.sweep.launchers.local import Local
from precisionlaws.sweep.live import Live
from precisionlaws.sweep.points import PARTS, Point, Study, allowed

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    points: Iterable[Point], store: str | Path = "results", launcher: Local | None = None
) -> "pd.DataFrame":
    """Compute every point that the store has not; the frame of all of them.

    Raises: RuntimeError naming the runs that failed, after all others are done.
    """
    chosen = tuple(points)
    study = Study(
        name="points", points=chosen, exec=default("exec"), launcher=launcher or Local(workers=None)
    )
    outcome = run_study(study, Store(store), Live(out=io.StringIO()), retry=True)
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} runs failed: {outcome.failed}")
    frame = load(store)
    wanted = {(p.run_id, p.eval_id) for p in chosen}
    return frame.loc[
        [k in wanted for k in zip(frame.run_id, frame.eval_id, strict=True)]
    ].reset_index(drop=True)


def default(part: str) -> Exec:
    return build(option(part, "default"), Exec)  # type: ignore[return-value]


def quantize(
    store: str | Path, method: str, bits: str, options: Sequence[str] = (), where: str | None = None
) -> "pd.DataFrame":
    """PTQ of every finished run of a store whose weights were trained unquantized; the new points' rows.

    bits: widths with commas between. options: 'group=32', 'granularity=row'.
    Raises: ConfigError for a method, width or option that does not exist, or a damaged checkpoint.
    """
    runs, ptqs = quantizable(store, method, bits, options, where)
    exec = default("exec")
    os.environ.setdefault("OMP_NUM_THREADS", str(exec.threads))  # before torch makes its pools
    import torch

    from precisionlaws.sweep.quantize import quantize_run

    torch.set_num_threads(exec.threads)  # as in a sweep: δ is paired only within equal facts
    for run in runs:
        quantize_run(run, ptqs, Store(store), exec)
    frame = load(store)
    mine = frame.run_id.isin(map(run_id, runs)) & frame.eval_id.isin(map(eval_id, ptqs))
    return frame.loc[mine].reset_index(drop=True)


def quantize_plan(
    store: str | Path, method: str, bits: str, options: Sequence[str] = (), where: str | None = None
) -> dict[str, Any]:
    """How many runs and points `quantize` would make; to_do: those that the store has not."""
    runs, ptqs = quantizable(store, method, bits, options, where)
    files, pairs = Store(store), [(run_id(r), eval_id(p)) for r in runs for p in ptqs]
    return {
        "method": method,
        "bits": sorted({p.bits for p in ptqs}),
        "runs": len(runs),
        "points": len(pairs),
        "to_do": sum(not files.has(*pair) for pair in pairs),
    }


def quantizable(
    store: str | Path, method: str, bits: str, options: Sequence[str], where: str | None
) -> tuple[list[RunConfig], list[Ptq]]:
    """The runs that can be quantized, checked against every method that is asked for."""
    from precisionlaws.where import where as chosen_rows

    ptqs = methods(method, bits, options)
    if not Path(store).is_dir():
        raise ConfigError(
            f"{str(store)!r} is not a store: quantize needs the checkpoints of its runs"
        )
    frame = load(store)
    rows = frame if where is None else chosen_rows(frame, where)
    files, runs = Store(store), []
    for name in dict.fromkeys(  # recorded runs of other loops have no checkpoint of ours
        rows[
            (rows.eval_id == "final")
            & (rows.P_w == 16)
            & (rows.status == "finished")
            & ~rows.run_id.str.startswith("ext-")
        ].run_id
    ):
        run, fingerprint = stored_config(files.run(name) / "config.yaml")
        same_data(run, name, fingerprint)
        for ptq in ptqs:
            allowed(run, ptq)
        runs.append(run)
    if not runs:
        raise ConfigError(
            f"store {str(store)!r} has no finished run with unquantized weights to quantize here"
        )
    return runs, ptqs


def methods(method: str, bits: str, options: Sequence[str]) -> list[Ptq]:
    texts = [f"ptq={method}", f"ptq.bits={bits}", *(f"ptq.{o}" for o in options)]
    return expand(texts, "job", RunConfig, PARTS)[1]["ptq"]


def same_data(run: RunConfig, name: str, fingerprint: str) -> None:
    """δ must be measured on the sequences that the run was measured on."""
    if run.data.fingerprint() != fingerprint or run_id(run) != name:
        raise ConfigError(
            f"run {name} was trained on data {fingerprint[:12]}, {run.data.origin()} holds "
            f"{run.data.fingerprint()[:12]} here: install the same version"
        )
