"""Which of weights, activations and KV cache needs most bits, and how small a difference these data would show.

The order changes with the width (published factors at 3 bits: KV .51 < weights .56; at 4: .83 > .70 >
activations .33), so roles are compared at each width, all comparisons at once, and an order is claimed
only where its interval leaves zero out.
"""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from precisionlaws.fitting.simultaneous import spread, together
from precisionlaws.laws.base import OFF, ROLES

if TYPE_CHECKING:
    from precisionlaws.fitting.fit import Fit


def detectable(fit: "Fit", name: str) -> float:
    """The least shortfall from 1 of an efficiency that such a study finds: 80% power at 5%, two-sided."""
    point, draws = fit.quantity(name)
    se = spread(draws[:, None], np.array([point]), dof(fit))
    return float(together(np.array([point - 1.0]), se, dof(fit)).detectable[0])


def order(fit: "Fit", level: float = 0.95) -> list[str]:
    """One sentence for each width that several roles were trained at."""
    pairs = [
        (P, r, s)
        for P in sorted({P for widths in fit.measured.values() for P in widths})
        for r, s in combinations([r for r in ROLES if known(fit, r, P)], 2)
        if apart(fit, r, s, P)
    ]
    if not pairs:
        return []
    both = [(fit.quantity(f"eff_{r}({P:g})"), fit.quantity(f"eff_{s}({P:g})")) for P, r, s in pairs]
    point = np.array([a[0] - b[0] for a, b in both])
    draws = np.stack([np.nan_to_num(a[1] - b[1]) for a, b in both], 1)
    found = together(point, spread(draws, point, dof(fit)), dof(fit), level)
    said: dict[float, list[str]] = {}
    for k, (P, r, s) in enumerate(pairs):
        said.setdefault(P, []).append(
            _words(r, s, *(float(v[k]) for v in (point, found.low, found.high, found.detectable)))
        )
    return [f"at {P:g} bits: {'; '.join(words)}" for P, words in said.items()]


def apart(fit: "Fit", r: str, s: str, P: float) -> bool:
    """Whether some run has one of the roles at P bits and the other not."""
    here = fit.rows[[f"P_{r}", f"P_{s}"]].to_numpy(float) == P
    return bool((here[:, 0] != here[:, 1]).any())


def known(fit: "Fit", role: str, P: float) -> bool:
    """The efficiency of a role at P bits is measured against 16 bits, in more than one family."""
    anchored = np.any(fit.rows[f"P_{role}"] >= OFF)
    single = f"eff_{role}[{P:g}]" in fit.one_cluster
    return bool(P in fit.measured.get(role, ()) and anchored and not single)


def dof(fit: "Fit") -> float:
    """Degrees of freedom of the draws."""
    return fit.clusters - 1 if fit.clusters > 1 else max(fit.objective.n - len(fit.params), 1)


def _words(r: str, s: str, d: float, low: float, high: float, least: float) -> str:
    if low <= 0 <= high:
        size = f"{least:.2f}" if least < 1 else "more than 1"
        return f"{r} and {s} not told apart (eff differs by {abs(d):.2f}, detectable {size})"
    if d < 0:
        r, s, d, low, high = s, r, -d, -high, -low
    return f"{r} costs less than {s} (eff differs by {d:.2f}, {low:.2f} to {high:.2f})"
