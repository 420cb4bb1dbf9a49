"""Runs of a table trained again from their rows alone: is the published number the one that comes out?

A row holds every field of its run under its dotted path, and names the run by them: what is rebuilt from the
columns must have the row's own run_id, or it is not trained. Where chip, threads and versions are those of the row
(`exec.*`), the loss has to be the same to the bit. Elsewhere rounding differs and training amplifies it: there it
has to be within twice the standard deviation that the table itself shows between seeds (`noise`).
"""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from precisionlaws.config import ConfigError, Spec, build, hints, join, neutral_of, plain, target
from precisionlaws.models.own import TORCH
from precisionlaws.overrides import option, options
from precisionlaws.run import Exec, RunConfig, run_id
from precisionlaws.training.train import train

if TYPE_CHECKING:
    import pandas as pd

GROUPS = {
    "weights": "format",
    "activations": "format",
    "kv": "format",
    "gradients": "format",
}  # field: conf group
RECIPE = ["arch", "D", "optim.lr", "lr_schedule", "lr_schedule.decay", "model", "data"]


@dataclass(frozen=True)
class Repeat:
    """One run, made again. noise: nats, NaN where the table has no second seed of its size."""

    run_id: str
    loss: float  # of the table
    again: float
    alike: bool  # equal execution facts: bits are promised
    noise: float

    @property
    def difference(self) -> float:
        return self.again - self.loss

    @property
    def holds(self) -> bool:
        return self.difference == 0 if self.alike else abs(self.difference) <= 2 * self.noise

    @property
    def verdict(self) -> str:
        if self.difference == 0:
            return "the same bits"
        if self.alike:
            return "DIFFERS where the same bits are promised"
        if self.noise != self.noise:
            return "DIFFERS, and no bits of its size were trained from two seeds: nothing to judge it by"
        return f"{'within' if self.holds else 'DIFFERS by more than'} 2 sd, {2 * self.noise:.2g}"


def repeat(
    frame: "pd.DataFrame", store: str, sample: int, seed: int, exec: Exec | None = None
) -> Iterator[Repeat]:
    """Train `sample` runs of the frame again, chosen by `seed`, smallest first; one that `store` has is not trained.

    Raises: ConfigError when there is nothing to choose from, or a row does not describe its run.
    """
    rows, given = trained(frame), exec or build(option("exec", "default"), Exec)
    assert isinstance(given, Exec)
    if not 1 <= sample <= len(rows):
        raise ConfigError(
            f"--sample must be 1 to {len(rows)}, the finished runs here, got {sample}"
        )
    for _, row in rows.sample(sample, random_state=seed).sort_values("flops").iterrows():
        # Ours are taken where they are here; whether those were the row's, the facts tell.
        here = replace(given, parts=TORCH) if row.get("exec.parts") == TORCH else given
        result = train(run_of(row.to_dict()), store, here).row
        alike = all(result[k] == row.get(k) for k in result if k.startswith("exec."))
        yield Repeat(str(row.run_id), float(row.loss), float(result["loss"]), alike, noise(frame, row.N))  # fmt: skip


def trained(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of finished runs, without their PTQ points, that were made by this library."""
    own: Any = frame[(frame.eval_id == "final") & (frame.status == "finished")]
    return own[own["model"].notna()] if "model" in own else own.iloc[:0]


def run_of(row: dict[str, Any]) -> RunConfig:
    """The run that a row describes. Raises: ConfigError when it is not the run that the row names."""
    config = build(node(RunConfig, "", row | {"tokens": row["D"]}), RunConfig)
    assert isinstance(config, RunConfig)
    if (made := run_id(config)) != row["run_id"]:
        raise ConfigError(
            f"the columns of {row['run_id']} make {made}: another version of this library, or of its data, trained it"
        )
    return config


def node(kind: type[Spec], path: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The yaml node of a part, from the columns below `path`; absent columns are at their neutral value."""
    out: dict[str, Any] = {"_target_": f"{kind.__module__}.{kind.__name__}"}
    kinds = hints(kind)
    for f in fields(kind):
        column, hint = join(path, f.name), kinds[f.name]
        value = row.get(column)
        absent = value is None or value != value
        if absent and isinstance(
            f.metadata.get("neutral"), Spec
        ):  # a part that is younger than the row
            out[f.name] = plain(f.metadata["neutral"])
        elif isinstance(hint, type) and issubclass(hint, Spec):
            out[f.name] = node(class_of(GROUPS.get(f.name, f.name), hint, str(value)), column, row)
        elif typing.get_origin(hint) is tuple:
            inner = typing.get_args(hint)[0]
            out[f.name] = [v if inner is str else plain_number(float(v)) for v in str(value).split(",")]  # fmt: skip
        elif absent and type(None) not in typing.get_args(hint):
            out[f.name] = neutral_of(kind, f.name, path)
        else:
            out[f.name] = None if absent else plain_number(value)
    return out


def class_of(group: str, kind: type[Spec], short: str) -> type[Spec]:
    """The class in conf/<group> whose short name a row has."""
    if short == kind.SHORT:
        return kind
    for name in options(group):
        cls = target(option(group, name)["_target_"], kind)
        if short == cls.SHORT:
            return cls
    raise ConfigError(f"no {group} {short!r} in this version")


def plain_number(value: Any) -> Any:
    """As yaml has it: columns with absent values turn whole numbers into floats."""
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def noise(frame: "pd.DataFrame", N: float) -> float:
    """Standard deviation, between seeds, of what bits cost in one recipe at equal D and batches, over all of this N."""
    rows: Any = trained(frame)
    rows = rows[rows.N == N]
    full = (rows[["P_w", "P_a", "P_kv"]] == 16).all(axis=1)
    recipe = [rows[k] for k in RECIPE if k in rows]
    base = rows.loss.where(full).groupby([rows.family, *recipe], dropna=False).transform("first")
    quantizers = [rows[k] for k in rows if k.startswith(("P_", "quant."))]
    cost = (rows.loss - base)[~full].groupby([*recipe, *quantizers], dropna=False)
    free = (cost.count() - 1).clip(lower=0).sum()
    return float((cost.var() * (cost.count() - 1)).sum() / free) ** 0.5 if free else float("nan")
