"""Finished runs whose weights tests quantize."""

from collections.abc import Sequence
from pathlib import Path

from precisionlaws.config import build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, RunConfig, compose
from precisionlaws.store import Store
from precisionlaws.training.unit import train_runs

EXEC: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]


def trained(overrides: Sequence[str], folder: Path, *more: Sequence[str]) -> Store:
    store = Store(folder)
    for extra in more or ((),):
        train_runs([compose([*overrides, *extra])], store, EXEC)
    return store


def the_run(tiny: list[str], *more: str) -> RunConfig:
    return compose([*tiny, *more])
