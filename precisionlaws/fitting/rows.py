"""Which rows of a frame a law is fitted to: rules fixed before looking at a loss, each one counted."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from precisionlaws.fitting.comparable import check
from precisionlaws.fitting.hygiene import needed, suspicions
from precisionlaws.laws.base import BITS, OFF, Array, Law
from precisionlaws.tables import cell, place

Table = Any  # a DataFrame: what pandas annotates as unions no checker can narrow
NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(BITS, OFF), "phase": "final", "status": "finished", "objective": "causal",
}  # fmt: skip
KEPT = (
    "run_id",
    "eval_id",
    "family",
    "N",
    "D",
    *BITS,
    "loss",
    "delta_ptq",
    "delta_ptq_se",
    "seed",
    "N_head",
    "seconds",
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows for the base and its scales (`loss`), and rows for the penalties (`delta`; empty without any)."""

    loss: Table
    delta: Table
    left_out: tuple[tuple[str, int], ...]  # reason, rows
    warnings: tuple[str, ...]
    sha256: str


def select(frame: Table, law: Law) -> Rows:
    """The rows that `law` speaks of, checked."""
    if len(frame) == 0:
        raise ValueError("the frame is empty: there is nothing to fit")
    _require(frame, ("N", "D", "loss"), law)
    table, warnings = _filled(frame)
    kinds = sorted(map(str, table["objective"].unique()))
    if len(kinds) > 1:
        raise ValueError(
            f"losses of different objectives ({', '.join(kinds)}) are not comparable: choose one of them, "
            f"e.g. --where \"objective == '{kinds[0]}'\""
        )
    left_out: list[tuple[str, int]] = [(why, n) for why, n in frame.attrs.get("left_out", ())]
    warnings = [*frame.attrs.get("warnings", ()), *warnings]
    table = _keep(table, table["status"] == "finished", "status is not finished", left_out)
    if (table["phase"] == "stable").all():  # asked for: they are never the only rows of a study
        warnings.append("all rows are of weights before the decay: not the losses of finished runs")
    else:
        why = "phase is not final (the schedule does not end there)"
        table = _keep(table, table["phase"] == "final", why, left_out)
    after = table["P_post"] < OFF
    delta = table[after] if law.paired else table[:0]
    loss = (
        table[~after]
        if law.paired
        else _keep(table, ~after, "P_post < 16: the law has no PTQ term", left_out)
    )
    # A δ is that of an unquantized run unless its term reads the training bits.
    loss = _modelled(loss, (*law.scales, *law.added), "scale", left_out)
    delta = _modelled(delta, law.paired, "PTQ term", left_out)
    for term in law.paired:
        _require(frame, ("delta_ptq",), law)
        least = getattr(term, "MIN_BITS", 0.0)
        delta = _keep(
            delta,
            delta["P_post"] >= least,
            f"P_post < {least:g}: outside the regime of the term",
            left_out,
        )
    known, said = needed(loss)
    loss = _keep(loss, known, "N, D or loss is missing", left_out)
    warnings += said
    _positive(loss, "loss")
    for part in (loss, delta):
        _positive(part, "N")
        _positive(part, "D")
    if law.paired:
        _finite(delta, "delta_ptq")
        _one_method(delta)
    read = frozenset(s for t in law.terms for s in getattr(t, "SETTINGS", ()))
    warnings += check(loss, delta, read) + _mixed_exec(table)
    warnings += suspicions(loss)
    merged: dict[str, int] = {}
    for why, n in left_out:
        merged[why] = merged.get(why, 0) + n
    both = (compact(loss, law), compact(delta, law))
    return Rows(
        loss=both[0],
        delta=both[1],
        left_out=tuple(merged.items()),
        warnings=tuple(warnings),
        sha256=digest(both),
    )


def digest(parts: tuple[Table, ...]) -> str:
    """SHA-256 of tables: their column names and every value."""
    from pandas.util import hash_pandas_object

    sha = hashlib.sha256()
    for part in parts:
        rows: Any = hash_pandas_object(part, index=False)  # pyright: ignore[reportCallIssue]
        sha.update(",".join(map(str, part.columns)).encode() + rows.to_numpy().tobytes())
    return sha.hexdigest()


def compact(table: Table, law: Law) -> Table:
    """The columns that inference, planning and figures read."""
    out = table[[c for c in KEPT if c in table]].reset_index(drop=True)
    made = {c: v for c, v in law.read(table).items() if c not in out} if len(table) else {}
    return out.assign(**made)


def centre(table: Table) -> dict[str, float]:
    """Geometric means of N and D, the units of the search."""
    return {c: float(np.exp(np.mean(np.log(table[c].to_numpy(float))))) for c in ("N", "D")}


def _filled(frame: Table) -> tuple[Table, list[str]]:
    # Rows keep their numbers, so that a message names the row of the file.
    table = frame.copy(deep=False) if frame.index.is_unique else frame.reset_index(drop=True)
    warnings = []
    for column, value in NEUTRAL.items():
        table[column] = table[column].fillna(value) if column in table else value
    for column in BITS:
        table[column] = _bits(table, column)
    lacking = table["family"].isna() | (table["family"] == "") if "family" in table else True
    if np.any(lacking):
        source = "run_id" if "run_id" in table and table["run_id"].notna().all() else None
        name = table[source].astype(str) if source else "row " + table.index.astype(str)
        table["family"] = np.where(lacking, name, table.get("family", ""))
        unit = "run" if source else "row"
        warnings.append(
            f"{'no family column' if np.all(lacking) else 'rows without a family'}: every {unit} there is taken as "
            "independent, and intervals are too narrow if some share a seed"
        )
    if {"run_id", "eval_id"} <= set(table):
        # A table without eval_id of its own has one run at several P_post.
        twice = table.duplicated(["run_id", "eval_id", "P_post", "phase"])
        if twice.any():
            raise ValueError(
                f"run_id, eval_id and P_post of {_where(table, twice.to_numpy())} occur twice: one row per point"
            )
    return table, warnings


def _modelled(
    table: Table, terms: tuple[ModuleType, ...], what: str, left_out: list[tuple[str, int]]
) -> Table:
    """Rows whose training bits differ from 16 only where a term reads them."""
    for column in BITS[:3]:
        if column not in {c for t in terms for c in t.COLUMNS}:
            why = f"{column} < 16: the law has no {what} for it"
            table = _keep(table, table[column] >= OFF, why, left_out)
    return table


def _keep(table: Table, mask: Any, why: str, left_out: list[tuple[str, int]]) -> Table:
    dropped = int((~mask).sum())
    if dropped:
        left_out.append((why, dropped))
    return table[mask]


def _require(frame: Table, names: tuple[str, ...], law: Law) -> None:
    missing = [c for c in names if c not in frame]
    if missing:
        have = ", ".join(map(str, frame.columns))
        raise ValueError(
            f"{law.full_name} needs the column(s) {', '.join(missing)}; the frame has {have} "
            f"(name yours: --columns {missing[0]}=...)"
        )


def _where(table: Table, mask: Array) -> str:
    row = table.index[np.argmax(mask)]
    return place(table, row) + (f" ({table.loc[row, 'run_id']})" if "run_id" in table else "")


def _positive(table: Table, column: str) -> None:
    values = table[column].to_numpy(float)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise ValueError(
            f"{column} must be positive and finite, got {values[bad][0]} in {_where(table, bad)}"
        )


def _bits(table: Table, column: str) -> Table:
    """Widths as numbers; what has 16 bits or more is not quantized, and is 16 from here on."""
    import pandas as pd

    numbers: Any = pd.to_numeric(table[column], errors="coerce")
    values = numbers.astype(float)
    bad = ~(values > 0).to_numpy()
    if bad.any():
        raise ValueError(
            f"{column} must be a positive number of bits (16 or more: not quantized), got {cell(table[column][bad].iloc[0])} in {_where(table, bad)}"
        )
    return values.clip(upper=OFF)


def _finite(table: Table, column: str) -> None:
    bad = ~np.isfinite(table[column].to_numpy(float))
    if bad.any():
        raise ValueError(
            f"{column} must be finite, got {table[column].to_numpy()[bad][0]} in {_where(table, bad)}"
        )


def _one_method(delta: Table) -> None:
    for column in (c for c in ("ptq", "ptq.method") if c in delta):
        kinds = sorted(map(str, delta[column].dropna().unique()))
        if len(kinds) > 1:
            raise ValueError(
                f"δ of different PTQ methods ({', '.join(kinds)}) do not follow one law: choose one, "
                f"--where \"P_post == 16 or {column} == '{kinds[-1]}'\", or compare them, --by-method"
            )


def _mixed_exec(table: Table) -> list[str]:
    mixed = []
    for column in (c for c in map(str, table.columns) if c.startswith("exec.")):
        kinds = table.groupby("family")[column].nunique()
        if (kinds > 1).any():
            mixed.append(f"{column} ({int((kinds > 1).sum())} families)")
    if not mixed:
        return []
    return [
        f"runs of one family differ in {', '.join(mixed)}: their differences are not paired bit for bit"
    ]
