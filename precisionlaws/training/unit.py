"""Runs that share a trunk: the stable phase is trained once, every D decays from it.

Under WSD nothing but the decay depends on D, so the runs of one config at several D are one trunk with
branches. A branch is bit-identical to the run trained alone, because alone it goes through the same
states; `train` of one run is this function with one branch.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save as save_tensors

from precisionlaws import heldout
from precisionlaws import store as files
from precisionlaws.config import ConfigError, plain
from precisionlaws.run import (
    Exec,
    RunConfig,
    normal_json,
    normal_text,
    parts_of,
    run_id,
    stored_config,
    trunk_id,
)
from precisionlaws.store import Store, saved_steps
from precisionlaws.training.evaluate import Losses, measure
from precisionlaws.training.facts import checkpoint_facts, device_of, micro_batch
from precisionlaws.training.loop import Diverged, Interrupted, advance, batches_of
from precisionlaws.training.result import base_row, final_row
from precisionlaws.training.state import LOG, State, fresh, resume, save

SAVE_SECONDS = 30.0  # between checkpoints on the way


@dataclass(frozen=True)
class Watch:
    """What a caller wants to be told, and may ask, while runs train."""

    progress: Callable[[str, int, int, float], None] = lambda run, step, steps, loss: None
    stop: Callable[[], bool] = lambda: False


def train_runs(
    runs: Sequence[RunConfig], store: Store, exec: Exec, watch: Watch | None = None
) -> None:
    """Train every run of one trunk that the store has not, in order of their branch points; publish each as it ends.

    Raises: Interrupted (after a checkpoint) when `watch.stop()` says so; ConfigError when the store
    holds another config under the same name.
    """
    todo = missing(runs, store, exec)
    if not todo:
        return
    state = fresh_for(todo[0], exec)
    trainer = Trainer(store, exec, watch or Watch())
    for i, run in enumerate(todo):
        try:
            trainer.trunk(state, run)
        except Diverged:
            for lost in todo[i:]:  # longer runs share the trunk that diverged
                publish(lost, state, store, exec, None)
            return
        trainer.branch(state, run)


def fresh_for(run: RunConfig, exec: Exec) -> State:
    """Step 0 of a run, computed as `exec` says."""
    device = device_of(exec.device)
    return fresh(run, device, exec.compile, parts_of(run, exec, device))


def missing(runs: Sequence[RunConfig], store: Store, exec: Exec) -> list[RunConfig]:
    """Those without a result, in the order in which they leave the trunk."""
    todo = [r for r in sorted(runs, key=stage) if not known(store, r)]
    for run in todo:  # whatever cannot be told of a run should fail now, not after its training
        base_row(run, exec)
    return todo


def stage(run: RunConfig) -> tuple[int, int, str]:
    """Where a run leaves its trunk, and the rest of what makes its decay: runs of one D may decay over different
    shares of it, and a trunk that has passed a branch point cannot go back."""
    return run.lr_schedule.decay_start(run.steps), run.steps, normal_json(run.lr_schedule)


def known(store: Store, run: RunConfig) -> bool:
    """Whether the run has a result; its config is written, or compared, either way."""
    name, path = run_id(run), store.run(run_id(run)) / "config.yaml"
    if not path.exists():
        text = {"run_id": name, "fingerprint": run.data.fingerprint(), "run": plain(run)}
        files.write(path, yaml.safe_dump(text, sort_keys=False), replace=False)
    other, fingerprint = stored_config(path)
    if normal_text(other.resolved(fingerprint)) != normal_text(
        run.resolved(run.data.fingerprint())
    ):
        raise ConfigError(f"{path} holds another config than run {name}: move that store away")
    return store.has(name)


@dataclass(frozen=True)
class Trainer:
    """The two phases of a run, with checkpoints on the way."""

    store: Store
    exec: Exec
    watch: Watch

    def trunk(self, state: State, run: RunConfig) -> None:
        """Bring `state` to the branch point of `run`, from the best checkpoint on disk."""
        folder, branch = self.store.trunk(trunk_id(run)), run.lr_schedule.decay_start(run.steps)
        self.catch_up(state, run, folder, branch)
        if state.step > branch:
            raise RuntimeError(
                f"{run_id(run)} branches at step {branch}, its trunk is at {state.step}"
            )
        if state.step == branch:
            return
        last: list[Path] = []  # the newest checkpoint between branch points: one is enough

        def keep(s: State) -> None:
            path = folder / f"step-{s.step}.safetensors"
            save(s, path, checkpoint_facts(self.exec, run))
            while last:
                last.pop().unlink(missing_ok=True)
            if s.step < branch:
                last.append(path)

        self.phase(state, run, branch, keep)
        keep(state)

    def catch_up(self, state: State, run: RunConfig, folder: Path, branch: int) -> None:
        """Take over the furthest usable checkpoint up to the branch point."""
        for step in sorted(
            (n for n in saved_steps(folder) if state.step < n <= branch), reverse=True
        ):
            path = folder / f"step-{step}.safetensors"
            if resume(state, path, checkpoint_facts(self.exec, run)):
                return

    def branch(self, state: State, run: RunConfig) -> None:
        """Decay, evaluate and publish `run`; `state` comes back as it was."""
        halfway = self.store.run(run_id(run)) / "resume.safetensors"
        snapshot = state.snapshot()
        facts = checkpoint_facts(self.exec, run)
        resume(state, halfway, facts)
        try:
            self.phase(state, run, run.steps, lambda s: save(s, halfway, facts))
            losses = self.evaluated(state, run, halfway, facts)
        except Diverged:
            losses = None
        publish(run, state, self.store, self.exec, losses)
        halfway.unlink(missing_ok=True)
        state.restore(*snapshot)

    def evaluated(self, state: State, run: RunConfig, halfway: Path, facts: str) -> Losses:
        device = device_of(self.exec.device)
        try:
            return measure(state.model, run, device, self.exec, self.watch.stop)
        except Interrupted:
            save(state, halfway, facts)
            raise

    def phase(self, state: State, run: RunConfig, to: int, keep: Callable[[State], None]) -> None:
        def factor(step: int) -> float:
            return run.lr_schedule.factor(step, run.steps)

        look, micro = lookout(self.watch, run, keep), micro_batch(run, self.exec)
        self.watch.progress(run_id(run), state.step, run.steps, last_loss(state))
        advance(state, run, batches_of(run), to, factor, look, micro)


def last_loss(state: State) -> float:
    """Of the last step, nats per token; NaN before the first."""
    return float(state.log[-1][-1, 1]) if state.log and len(state.log[-1]) else math.nan


def lookout(
    watch: Watch,
    run: RunConfig,
    keep: Callable[[Any], None],
    loss: Callable[[Any], float] = last_loss,
) -> Callable[[Any], None]:
    """What is done at every look at a state or pack: tell, save from time to time, stop when asked to."""
    name, saved = run_id(run), time.monotonic()

    def look(s: Any) -> None:
        nonlocal saved
        watch.progress(name, s.step, run.steps, loss(s))
        stop = watch.stop()
        if stop or time.monotonic() - saved > SAVE_SECONDS:
            keep(s)
            saved = time.monotonic()
        if stop:
            raise Interrupted

    return look


def publish(run: RunConfig, state: State, store: Store, exec: Exec, losses: Losses | None) -> None:
    """Write the run directory; result.json last, because it says that the rest is there.

    Where another worker was first, nothing of its run is replaced: the result is only compared.
    """
    folder, row = store.run(run_id(run)), final_row(run, exec, losses, state.seconds)
    if losses is not None:
        weights = {k: v.detach().contiguous().cpu() for k, v in state.model.state_dict().items()}
        content = save_tensors(weights, {"run_id": run_id(run)})
        row["checkpoint.sha256"] = hashlib.sha256(content).hexdigest()
        if not store.has(run_id(run)):
            files.write(folder / "checkpoint.safetensors", content)
            if math.isfinite(losses.mean):
                files.write(folder / "held_out.npy", heldout.to_bytes(losses.sums))
    if not store.has(run_id(run)):
        files.write(folder / "metrics.jsonl", metrics(state))
    files.publish(store.result(run_id(run)), row)


def metrics(state: State) -> str:
    """One JSON line per step."""
    rows = (dict(zip(LOG, map(files.jsonable, r), strict=True)) for r in state.log_table().tolist())
    return "\n".join(map(json.dumps, rows)) + "\n"
