"""What the headline becomes under other choices: the loss function, the worst runs left out, N with the head.

On the public points of Hoffmann et al. such choices move β more than its standard error. Each line is a
whole fit from its own starts; the most extreme residuals are those of the headline fit, and are left out
to see what rests on them, never to report a better fit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from precisionlaws.fitting.objective import Block, block
from precisionlaws.fitting.rows import Table, centre
from precisionlaws.fitting.solve import search
from precisionlaws.laws import Law
from precisionlaws.laws.base import Array

LOSSES = (("least squares", np.inf), ("huber 1e-2", 1e-2), ("huber 1e-3", 1e-3), ("huber 1e-4", 1e-4), ("least absolute", 1e-6))  # fmt: skip
DROPPED = (0.01, 0.02, 0.05)  # shares of the runs, the worst first


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One choice and the parameters it gives."""

    choice: str
    n: int
    params: Mapping[str, float]


def sensitivity(law: Law, table: Table, base: Block, u: Array, delta: float) -> tuple[Variant, ...]:
    """The loss block of a fit under other choices; `u` and `delta` are those of the headline."""
    n = len(base.y)
    out = [_variant(name, base, d, None) for name, d in LOSSES]
    r = np.abs(base.y - base.predict(u[None])[0])
    order = np.argsort(-r, kind="stable")
    for k in sorted({int(np.ceil(share * n)) for share in DROPPED}):
        if n - k >= 2 * len(base.own):
            W = np.ones(n)
            W[order[:k]] = 0.0
            out.append(_variant(f"without the {k} worst", base, delta, W))
    if "N_head" in table and table["N_head"].notna().all():
        wider = table.assign(N=table["N"] + table["N_head"])
        out.append(_variant("N + N_head", block("loss", law, wider, centre(wider)), delta, None))
    return tuple(out)


def _variant(choice: str, b: Block, delta: float, W: Array | None) -> Variant:
    found = search(b, delta, W)
    params = {k: float(v[0]) for k, v in b.natural(found.u[:1]).items()}
    return Variant(choice=choice, n=int(len(b.y) if W is None else W.sum()), params=params)


def table(
    variants: tuple[Variant, ...],
    names: list[str],
    value: Callable[[Mapping[str, Any], str], float],
) -> list[str]:
    """Lines: one per choice, one column per headline quantity."""
    rows = [("under", "n", *names)]
    rows += [
        (v.choice, str(v.n), *(f"{value(v.params, name):.4g}" for name in names)) for v in variants
    ]
    size = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, size, strict=True))
        )
        for r in rows
    ]
