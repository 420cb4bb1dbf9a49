"""The best width by law, cost model and budget: where the laws disagree, and what the data say to that.

Kumar et al. 2024 find one width for every budget (7 bits with their offsets), because bits multiply N
alone; Sun et al. 2025 one that grows with compute, because their bits add nats; QuEST (Panferov et al.
2025) finds 4 bits. Which of them a study supports is a question to its own fits, form-free ones first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF, law
from precisionlaws.laws.base import ROLES, Array
from precisionlaws.planning.costs import cost as cost_model
from precisionlaws.planning.plan import choose, question
from precisionlaws.planning.surface import Budget, Question, best_P
from precisionlaws.planning.widths import continuous

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = ("neff_kumar", "sun_fp")  # that have constants and a formula in P
# QuEST (Panferov et al. 2025, arXiv 2502.05003): weights and activations, rotated, one efficiency per width and no formula.
QUEST = {1: 0.0205, 2: 0.152, 3: 0.433, 4: 0.692, 8: 1.016, 16: 1.0}
LEAST = 2.0  # bits
BLOCK = 128.0  # values per scale of Sun et al.
POOL = "all laws and costs"


def beliefs(fits: Sequence[Fit], *, flops: Sequence[float], costs: Sequence[str]) -> "pd.DataFrame":
    """One row per law, cost and budget: P with its 95% interval, the share of draws at each width.

    law, published, cost, flops, P, low, high, form_free, shares ({whole width: share of draws}). Fits that have no
    width below 16 are left out. The rows of `POOL` take every law and cost as equally credible: an
    interval over forms as well as over data.
    """
    import pandas as pd

    rows, known = [], {}
    for C in flops:
        pooled = []
        for name in costs:
            for one in (f for f in fits if f.measured and (f.law.scales or f.law.added)):
                P, draws = known.get((id(one), name)) or _best(one, C, name, known)
                pooled.append(draws)
                rows.append(_row(one.law.full_name, name, C, P, draws, not continuous(one.law)))
        if len(pooled) > 1:
            draws = np.concatenate(pooled)
            rows.append(_row(POOL, "", C, float(np.nanmedian(draws)), draws, False))
        if "paper" in costs:
            rows += [_published(name, C) for name in PUBLISHED] + [_quest(C)]
    return pd.DataFrame(rows)


def _best(
    one: Fit, flops: float, cost: str, known: dict[tuple[int, str], tuple[float, Array]]
) -> tuple[float, Array]:
    """P* and its draws; kept in `known` where no budget changes them."""
    q, table = question(one, flops=flops, cost=cost, fixed={})
    point = {k: np.array([v]) for k, v in one.params.items()}
    P = float(choose(q, point, table, table.point_scales)[0])
    draws = choose(q, one.samples, table, table.scales)
    if q.separable:
        known[id(one), cost] = P, draws
    return P, draws


def sentences(table: "pd.DataFrame") -> list[str]:
    """Which laws say one width for every budget, which say it grows, and whether the intervals meet."""
    own: Any = table[table["law"] != POOL]
    out = []
    for (name, cost, published), part in own.groupby(["law", "cost", "published"], sort=False):
        rows = part.sort_values("flops")
        first, last = rows.iloc[0], rows.iloc[-1]
        who = f"{name} ({'published constants' if published else cost})"
        if len(rows) < 2 or abs(last["P"] - first["P"]) < 0.05:
            spread = f", 95% {first['low']:.3g} to {first['high']:.3g}" if not published else ""
            out.append(f"{who}: {first['P']:.3g} bits{spread}{', at every budget' if len(rows) > 1 else ''}")  # fmt: skip
        else:
            way = "grows" if last["P"] > first["P"] else "falls"
            out.append(
                f"{who}: {way} from {first['P']:.3g} bits at {first['flops']:.2g} FLOP to {last['P']:.3g} at {last['flops']:.2g}"
            )
    return out


def _published(name: str, flops: float) -> dict[str, Any]:
    one = law(name)
    q = Question(
        law=one, budget=Budget(flops=flops, cost=cost_model("paper")), roles=ROLES, low=LEAST, G=BLOCK
    )  # fmt: skip
    P = best_P(q, {k: np.array([v]) for k, v in (one.published or {}).items()})
    return _row(one.source.partition(",")[0], "paper", flops, float(P[0]), P, False) | {"published": True}  # fmt: skip


def _quest(flops: float) -> dict[str, Any]:
    """The best of the widths that QuEST trained, where eff/c decides for every budget."""
    c = cost_model("paper").relative
    P = float(max(QUEST, key=lambda b: QUEST[b] / float(c(np.array(float(b))))))
    return _row("QuEST, Panferov et al. 2025", "paper", flops, P, np.array([P]), True) | {"published": True}  # fmt: skip


def _row(name: str, cost: str, flops: float, P: float, draws: Array, free: bool) -> dict[str, Any]:
    low, high = np.quantile(np.where(np.isnan(draws), np.inf, draws), [0.025, 0.975], method="nearest")  # fmt: skip
    known = draws[np.isfinite(draws)]
    whole, n = np.unique(np.round(np.minimum(known, OFF)), return_counts=True)
    shares = {int(w): float(k / len(draws)) for w, k in zip(whole, n, strict=True)}
    return {"law": name, "published": False, "cost": cost, "flops": flops, "P": P, "low": float(low),
            "high": float(high), "form_free": free, "shares": shares}  # fmt: skip
