"""`sweep` and `quantize` for Python; the commands do the same and show progress."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from precisionlaws.config import build
from precisionlaws.overrides import option
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import Exec, Launcher, run_id
from precisionlaws.store import Store, load
from precisionlaws.sweep.engine import run_study
from precisionlaws.sweep.launchers.local import Local
from precisionlaws.sweep.live import Silent
from precisionlaws.sweep.points import Point, Study
from precisionlaws.sweep.quantizable import methods, quantizable

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    points: Iterable[Point], store: str | Path = "results", launcher: Launcher | None = None
) -> "pd.DataFrame":
    """Compute every point that the store has not; the frame of all of them.

    Raises: RuntimeError naming the runs that failed, after all others are done.
    """
    chosen = tuple(points)
    where = launcher or Local(workers=None)
    exec = where.placed(default("exec"))
    study = Study(name="points", points=chosen, exec=exec, launcher=where)
    outcome = run_study(study, Store(store), Silent(), retry=True)
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
    store: str | Path,
    method: str,
    bits: str,
    options: Sequence[str] = (),
    where: str | None = None,
    low_precision: bool = False,
    done: Callable[[str, str, float], None] = lambda run, point, delta: None,
) -> "pd.DataFrame":
    """PTQ of every finished run of a store whose weights were trained unquantized; the new points' rows.

    method, bits: names and widths with commas between. options: 'group=32', or of one method
    'gptq.act_order=false'. low_precision: also of weights that were trained at more bits than these.
    done(run_id, eval_id, δ): called after every point.
    Raises: ConfigError for a method, width or option that does not exist, or a damaged checkpoint.
    """
    jobs = quantizable(store, methods(method, bits, options), where, low_precision)
    exec = default("exec")
    os.environ.setdefault("OMP_NUM_THREADS", str(exec.threads))  # before torch makes its pools
    import torch

    from precisionlaws.sweep.quantize import quantize_run

    torch.set_num_threads(exec.threads)  # as in a sweep: δ is paired only within equal facts
    for run, ptqs in jobs:
        quantize_run(run, ptqs, Store(store), exec, functools.partial(done, run_id(run)))
    frame = load(store)
    wanted = {(run_id(run), eval_id(p)) for run, ptqs in jobs for p in ptqs}
    mine = [key in wanted for key in zip(frame.run_id, frame.eval_id, strict=True)]
    return frame.loc[mine].reset_index(drop=True)
