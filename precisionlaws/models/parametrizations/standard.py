"""The standard parametrization: starts by fan-in, one learning rate for all.

The learning rate is then a matter of size: without `optim.lr` a rule gives one per width (optim/rules.py).
"""

from dataclasses import dataclass
from typing import ClassVar

from precisionlaws.models.base import Size
from precisionlaws.models.parametrizations.base import Parametrization


@dataclass(frozen=True, kw_only=True)
class Standard(Parametrization):
    SHORT: ClassVar[str] = "standard"

    @classmethod
    def missing(cls, key: str, place: str) -> str:
        return "; parametrization=mup and completep have fields, standard has none"

    def normal(self) -> None:
        """Off: runs of before there was a choice have this one."""

    def at(self, size: Size) -> None:
        return None
