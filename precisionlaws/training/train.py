"""`train`: one run, from config to result."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precisionlaws.claims import Lease, Watcher, acquire
from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, RunConfig, run_id, trunk_id
from precisionlaws.store import Store, read_json


@dataclass(frozen=True)
class Result:
    """A finished run: where it is and its row."""

    run_id: str
    folder: Path
    row: dict[str, Any]

    def summary(self) -> str:
        row = self.row
        if row["status"] != "finished":
            return f"{self.run_id}\n  {row['status']}: the loss was not finite; metrics in {self.folder}"
        return (
            f"{self.run_id}\n  loss {row['loss']:.4f} nats per token (held-out; sampling error {row['loss_se']:.4f})"
            f"\n  N {row['N']:,}  D {row['D']:,}  {row['seconds']:.1f} s  in {self.folder}"
        )


def train(config: RunConfig, store: str | Path = "results", exec: Exec | None = None) -> Result:
    """Train a run, or go on with it; return at once when the store has it.

    exec: device and threads; the default is one thread, as in a sweep, so that both give the same bits.
    Raises: ConfigError when the store is not writable or holds another config under this name.
    """
    files = Store(store)
    name = run_id(config)
    if not files.has(name):
        files.check_writable()
        execute(config, files, exec or build(option("exec", "default"), Exec))  # type: ignore[arg-type]
    return Result(name, files.run(name), read_json(files.result(name)))


def execute(config: RunConfig, store: Store, exec: Exec) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(exec.threads))  # before torch makes its pools
    import torch

    from precisionlaws.training.pack_unit import train_trunks
    from precisionlaws.training.unit import Watch

    before = torch.get_num_threads()
    torch.set_num_threads(exec.threads)
    lease = lease_of(config, store)
    try:
        tell = Watch(
            lambda run, step, steps, loss: lease.tell(run, step, steps, config.batch, loss)
        )
        train_trunks([[config]], store, exec, tell)
    finally:
        lease.release()
        torch.set_num_threads(before)


def lease_of(config: RunConfig, store: Store) -> Lease:
    """Raises: ConfigError when a sweep or another `train` is working on the same trunk."""
    path = store.claim(trunk_id(config))
    _, stale = Watcher().held(path)
    lease = acquire(path, stale)
    if lease is None:
        raise ConfigError(
            f"another process is training {trunk_id(config)} in this store ({path}); wait for it"
        )
    return lease
