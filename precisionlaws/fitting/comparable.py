"""Rows that one law may describe: measured on the same text, in formats that differ by their width alone.

A law of N, D and bits says nothing of corpora, scale granularities or PTQ settings. Fitted across them its
coefficients look certain and mean nothing (tried: γ_N of δ fell from .41 to .08 when half of the rows had
one scale per row and half one per 16 weights), so mixing is an error, and what may matter is a warning.
"""

from typing import Any

Table = Any
SAME_TEXT = ("data.fingerprint", "data.context", "data.eval_tokens")
# One study has one of each; of optim.lr one per size.
RECIPE = ("arch", "dtype", "batch_tokens", "lr_schedule", "parametrization")
METHODS = ("P_g", "quant.rotation", "quant.start")
ROLES = {"P_w": "quant.weights", "P_a": "quant.activations", "P_kv": "quant.kv"}


def check(loss: Table, delta: Table, read: frozenset[str] = frozenset()) -> list[str]:
    """Warnings. `read`: settings that a term of the law models, such as the group size.

    Raises: ValueError naming the column that must not vary, and how to choose one value.
    """
    for part in (loss, delta):
        for column in SAME_TEXT:
            one_value(part, column, "losses on different text")
        for bits, place in ROLES.items():
            low = part[part[bits] < 16]
            for column in settings(low, place, read):
                one_value(low, column, f"{place} of different kinds", f"{bits} >= 16")
        methods(part)
    for column in settings(delta, "ptq", read):
        if not column.startswith("ptq.info."):
            one_value(delta, column, "PTQ of different kinds", "P_post >= 16")
    return recipes(loss) + repeated(loss)


def methods(part: Table) -> None:
    """How quantized runs were trained besides their widths: what no law reads must not vary.

    Raises: ValueError.
    """
    low = (part[list(ROLES)] < 16).any(axis=1)
    for column in METHODS:
        off = " and ".join(f"{bits} >= 16" for bits in ROLES)
        one_value(part[low], column, "runs quantized by different methods", off)
    if "P_g" in part:
        rough = part["P_g"] < 16
        for column in settings(part[rough], "quant.gradients", frozenset()):
            one_value(part[rough], column, "gradients of different kinds")
        if (rough & ~low).any():
            raise ValueError(
                "gradients are quantized in runs that count as unquantized, because no law reads P_g; "
                'choose --where "P_g == 16"'
            )


def settings(table: Table, place: str, read: frozenset[str]) -> list[str]:
    """Columns of a part: its kind and its fields, but its width and what the law reads."""
    known = read | {"bits"}
    mine = (c for c in map(str, table.columns) if c == place or c.startswith(f"{place}."))
    return [c for c in mine if c.removeprefix(f"{place}.") not in known]


def one_value(table: Table, column: str, what: str, others: str = "") -> None:
    """others: condition of the rows that have no such value, and must not be lost with it."""
    found = values(table, column)
    if len(found) > 1:
        chosen = f"{column} == {found[0]!r}"
        raise ValueError(
            f"{what} do not follow one law: {column} is {' and '.join(str(v) for v in found[:3])}; "
            f'choose one, e.g. --where "{f"{others} or " if others else ""}{chosen}"'
        )


def values(table: Table, column: str) -> list[Any]:
    """Distinct values; rows that do not say (other people's) are not held against the rest."""
    return sorted(table[column].dropna().unique().tolist(), key=str) if column in table else []


def recipes(loss: Table) -> list[str]:
    """Differences in how runs were trained, which the law would read as effects of N, D or bits."""
    names = [c for c in map(str, loss.columns) if c in RECIPE or c.startswith("lr_schedule.")]
    mixed = [c for c in names if len(values(loss, c)) > 1]
    optim = [c for c in map(str, loss.columns) if c == "optim" or c.startswith("optim.")]
    for column in optim:
        if (loss.groupby(["N"])[column].nunique() > 1).any():
            mixed.append(f"{column} (at equal N)")
    if not mixed:
        return []
    return [f"runs differ in {', '.join(mixed)}: the law takes what that changes for N, D or bits"]


def repeated(loss: Table) -> list[str]:
    if "epochs" not in loss or not (loss["epochs"] > 1).any():
        return []
    n, most = int((loss["epochs"] > 1).sum()), float(loss["epochs"].max())
    return [
        f"{n} runs repeat their data (up to {most:.1f} epochs): D counts tokens seen, not distinct ones"
    ]
