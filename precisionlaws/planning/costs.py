"""What a model costs, C = 6 D (N c(P) + N_head) + 2 T N c_s(P) FLOP-equivalents, by the models of conf/cost.

c(P) is the time of a product at P bits over that at 16, c(16) = 1. N_head counts where a model says so,
T tokens are served over the life of the model at c_s(P) each. A table of speeds has one row per width
that the hardware knows, with its source; other widths run at the next larger one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import precisionlaws
from precisionlaws.laws.base import ROLES

FLOPS_PER_TOKEN = 6.0  # per parameter, forward and backward
FLOPS_PER_SERVED = 2.0  # per parameter, forward alone
RULES = ("bits", "none", "table")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A row of a throughput table."""

    bits: float
    speed: float
    unit: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cost model; `training` and `serving` are rules: bits (P/16), none (1) or table."""

    name: str
    says: str
    source: str
    training: str
    serving: str = ""  # as training
    roles: tuple[str, ...] = ROLES  # what has P bits; the others stay at 16
    head: bool = False  # N_head parameters more, at 16 bits
    table: tuple[Speed, ...] = field(default=())

    def relative(self, P: Any) -> Any:
        """c(P) of training."""
        return self._by(self.training, P)

    def served(self, P: Any) -> Any:
        """c_s(P) of serving."""
        return self._by(self.serving or self.training, P)

    @property
    def steps(self) -> tuple[float, ...]:
        """Widths that the hardware knows, ascending; empty where any will do."""
        return tuple(sorted(row.bits for row in self.table))

    @property
    def smooth(self) -> bool:
        return "table" not in (self.training, self.serving)

    def _by(self, rule: str, P: Any) -> Any:
        if rule == "bits":
            return P / 16.0
        if rule == "none":
            return P * 0.0 + 1.0
        speed = {row.bits: row.speed for row in self.table}
        c = np.array([speed[max(speed)] / speed[b] for b in self.steps])
        return c[np.searchsorted(self.steps, np.minimum(np.real(P), max(speed)))] + P * 0.0


def names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in _conf().glob("*.yaml")))


@cache
def cost(name: str) -> Cost:
    """A cost model of conf/cost. Raises: ValueError for a name or a file that is none."""
    import yaml

    if name not in names():
        raise ValueError(f"cost must be one of {', '.join(names())}, got {name!r}")
    spec = yaml.safe_load((_conf() / f"{name}.yaml").read_text())
    unknown = set(spec) - set(Cost.__dataclass_fields__) | {"name"} & set(spec)
    if unknown:
        raise ValueError(f"conf/cost/{name}.yaml: unknown key(s) {', '.join(sorted(unknown))}")
    if lacking := [k for k in ("says", "source", "training") if k not in spec]:
        raise ValueError(f"conf/cost/{name}.yaml lacks {', '.join(lacking)}")
    rows = tuple(Speed(**row) for row in spec.pop("table", ()))
    roles = tuple(spec.pop("roles", ROLES))
    out = Cost(name=name, **spec, roles=roles, table=rows)
    _check(out)
    return out


def relative_cost(name: str) -> Callable[[Any], Any]:
    """c(P) by name."""
    return cost(name).relative


def _check(one: Cost) -> None:
    rules = {one.training, one.serving or one.training}
    bits = [row.bits for row in one.table]
    wrong = {
        f"rules are {', '.join(RULES)}": not rules <= set(RULES),
        f"roles are {', '.join(ROLES)}": not one.roles or not set(one.roles) <= set(ROLES),
        "a table needs one row of 16 bits and positive speeds": "table" in rules
        and (16 not in bits or len(set(bits)) < len(bits) or min(r.speed for r in one.table) <= 0),
    }
    for why, bad in wrong.items():
        if bad:
            raise ValueError(f"conf/cost/{one.name}.yaml: {why}")


def _conf() -> Path:
    return Path(precisionlaws.__file__).parent / "conf" / "cost"
