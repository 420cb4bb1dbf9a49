"""Signs that a table does not say what its columns claim: gaps, other units, rows that are there twice.

None of them stops a fit: the law fits in any unit, and its coefficients then mean something else.
"""

from typing import Any

import numpy as np

from precisionlaws.laws.base import BITS, Array
from precisionlaws.tables import place

Table = Any
FEWEST = {"N": 1e3, "D": 1e4}  # fewer than any language model has parameters, or was trained on
RATIO = (1e-3, 1e7)  # tokens per parameter, beyond what anyone has trained
HIGHEST = 20.0  # nats per token: a uniform guess over 5e8 tokens


def needed(table: Table) -> tuple[Array, list[str]]:
    """Which rows have N, D and a loss, and a sentence on those that lack one."""
    gaps = table[["N", "D", "loss"]].isna()
    known = ~gaps.any(axis=1).to_numpy()
    if known.all():
        return known, []
    row = table.index[np.argmin(known)]
    column = gaps.columns[np.argmax(gaps.loc[row].to_numpy())]
    return known, [
        f"rows without N, D or loss: {int((~known).sum())}, left out; the first lacks {column}, {place(table, row)}"
    ]


def suspicions(table: Table) -> list[str]:
    """Warnings of units and of repeated rows."""
    return [*units(table), *repeated(table)] if len(table) else []


def units(table: Table) -> list[str]:
    N, D = (table[c].to_numpy(float) for c in ("N", "D"))
    out = [_small(c, v, FEWEST[c]) for c, v in (("N", N), ("D", D)) if np.median(v) < FEWEST[c]]
    ratio = float(np.median(D / N))
    if not out and not RATIO[0] <= ratio <= RATIO[1]:
        out = [
            f"D/N is {ratio:.2g} tokens per parameter in the median: is one of them in millions or billions?"
        ]
    if (most := float(table["loss"].max())) > HIGHEST:
        out.append(f"losses reach {most:.3g}: nats per token are wanted, not perplexity or a sum")
    return out


def _small(column: str, values: Array, least: float) -> str:
    what, source = {"N": ("parameters", "params"), "D": ("tokens", "tokens")}[column]
    return (
        f"{column} is {values.min():.3g} to {values.max():.3g}, fewer than {least:g} {what}: in millions or billions? "
        f"Coefficients and plans take {what}: --columns {column}={source}*1e9, say"
    )


def repeated(table: Table) -> list[str]:
    """Rows that say the same to the last digit: one run twice, or a seed that changed nothing."""
    same = [c for c in ("N", "D", *BITS, "loss", "seed") if c in table]
    if "family" in table and not table["family"].is_unique:
        same.append("family")
    twice = table.duplicated(same).to_numpy()
    if not twice.any():
        return []
    row = table.index[np.argmax(twice)]
    return [
        f"rows that repeat another in every digit: {int(twice.sum())}, the first is {place(table, row)}; each is counted as "
        "a run: drop them if they are one, or intervals are too narrow"
    ]
