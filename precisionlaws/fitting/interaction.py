"""Do the costs of weights, activations and KV cache multiply? Eq. 4 of Kumar et al. 2024 says so.

Each format that quantizes several roles at once gets a factor κ of its own over the product of its parts
(`laws/interaction.py`); the product law says κ = 1 for all. Judged by refits without each family in turn,
all formats together: one of several hundred runs is always surprising.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from precisionlaws.fitting.objective import block
from precisionlaws.fitting.resample import Solved
from precisionlaws.fitting.rows import Table
from precisionlaws.fitting.simultaneous import blocked, together
from precisionlaws.fitting.solve import PATIENCE, minimise
from precisionlaws.laws import Law, interaction
from precisionlaws.laws.base import Array

LEVEL = 0.95
OUTLYING = 3.0  # Huber's threshold in units of sd: what families share cancels only where no row is cut off
SHOWN = 6  # formats that a sentence names
FAR = 20.0  # of ln κ: no factor at all
ENOUGH = 1e-7  # Newton decrement of a refit, relative to the objective


@dataclass(frozen=True, kw_only=True)
class Interaction:
    """What joint formats are worth over the product of their parts; intervals hold for all at once."""

    factor: Mapping[str, tuple[float, float, float]]  # format → κ, low, high
    p: float  # that every factor is 1
    detectable: float | None  # the least κ − 1 found whatever the format, with 80% power
    untested: tuple[str, ...]  # a part was not trained alone, or is of one family

    @property
    def rejected(self) -> tuple[str, ...]:
        """Formats whose interval leaves 1 out."""
        return tuple(name for name, (_, low, high) in self.factor.items() if not low <= 1 <= high)


def product_law(law: Law, table: Table, s: Solved) -> Interaction | None:
    """The test at the minimum of a loss block; None where no run quantizes two roles, or the law has no scale for them.

    table: rows of that block.
    """
    cluster = blocked(s.cluster if len(np.unique(s.cluster)) > 1 else s.run)
    found = interaction.joint(dict(s.block.x))[0] if law.on("N") else {}
    if not found:
        return None
    formats = interaction.named_formats(s.block.x)
    once = {f for f in np.unique(formats) if len(np.unique(cluster[formats == f])) < 2}
    untested = tuple(
        name
        for name, lacking in found.items()
        if lacking or once & {name, *interaction.alone(name)}
    )
    if len(untested) == len(found):
        return Interaction(factor={}, p=1.0, detectable=None, untested=untested)
    names = tuple(name for name in found if name not in untested)
    point, se = _factors(law, table, s, cluster, names)
    every = together(point, se, len(np.unique(cluster)) - 1, LEVEL)
    ends = np.exp(np.clip([every.point, every.low, every.high], -FAR, FAR)).T.tolist()
    return Interaction(
        factor={name: (k, low, high) for name, (k, low, high) in zip(names, ends, strict=True)},
        p=float(every.p.min()),
        detectable=float(np.expm1(min(every.detectable.max(), FAR))),
        untested=untested,
    )


def _factors(
    law: Law, table: Table, s: Solved, cluster: Array, names: tuple[str, ...]
) -> tuple[Array, Array]:
    """ln κ of each format, and its standard error (CR3)."""
    terms = dict.fromkeys((*law.scales, interaction, *law.added))
    wide = replace(law, terms=tuple(terms), params=()).bind(table)
    b = block("loss", wide, table, s.block.centre)
    known = dict(zip((q.name for q in s.block.params), s.u, strict=True))
    start = np.array([[known.get(q.name, 0.0) for q in b.params]])
    r = s.block.y - s.block.predict(s.u[None])[0]
    # A threshold far below the noise is least absolute deviations, whose refits jump from row to row.
    delta = max(s.delta, OUTLYING * float(np.median(np.abs(r))) / 0.6745)
    full = minimise(b, start, delta, tol=ENOUGH, steps=PATIENCE).u
    W = (cluster[None] != np.unique(cluster)[:, None]).astype(float)
    G = len(W)
    parts = minimise(b, np.repeat(full, G, 0), delta, W=W, tol=ENOUGH, steps=PATIENCE).u
    place = [[q.name for q in b.params].index(f"kappa[{name}]") for name in names]
    return full[0, place], np.sqrt((G - 1) / G * ((parts - full)[:, place] ** 2).sum(0))


def sentence(found: Interaction) -> str:
    """The answer in one line."""
    shown = sorted(found.factor.items(), key=lambda f: -abs(np.log(f[1][0])))
    worth = ", ".join(
        f"{name} {k:.2f} ({low:.2f} to {high:.2f})" for name, (k, low, high) in shown[:SHOWN]
    )
    worth += f" and {len(shown) - SHOWN} nearer 1" if len(shown) > SHOWN else ""
    parts = [f"its factor over the product, 95% simultaneous: {worth}"] if worth else []
    if found.untested:
        parts.append(f"taken on trust, no part or one family alone: {', '.join(found.untested)}")
    if not found.factor:
        return f"product of roles not tested; {parts[0]}"
    verdict = "REJECTED" if found.rejected else "not rejected"
    size = "" if found.rejected else f", detectable {found.detectable:.0%}"
    return f"product of roles {verdict} (p = {found.p:.2g}{size}): {'; '.join(parts)}"
