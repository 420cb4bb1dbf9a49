"""Slurm as a launcher that tests ask of."""

from typing import Any

from precisionlaws.config import build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, Launcher

EXEC = Exec(device="cpu", threads=1, pack=1)


def slurm(**more: Any) -> Any:
    return build(option("launcher", "slurm") | {"poll": 0.1} | more, Launcher)
