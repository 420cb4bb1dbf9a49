"""What a report speaks of: the rows, what could be fitted to them, and what follows from the fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit, fit
from precisionlaws.fitting.rows import select
from precisionlaws.laws import OFF, Law
from precisionlaws.laws import law as known
from precisionlaws.planning import Plan, plan
from precisionlaws.planning.beliefs import beliefs
from precisionlaws.planning.costs import cost as cost_model
from precisionlaws.planning.next import next_runs
from precisionlaws.planning.widths import continuous
from precisionlaws.plots import out_of_sample
from precisionlaws.plots.style import spent

FURTHER = 10.0  # times the compute of the largest run: what is planned where nothing is asked
NEXT = 6  # runs
COSTS = ("paper", "a100_int")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that the page shows, computed once."""

    frame: Any  # a DataFrame
    store: Path | None  # for curves
    fits: tuple[Fit, ...]
    plans: tuple[Plan, ...]  # one for each fit that allows one
    widths: Any  # `beliefs`, or None
    laws: Any  # `compare`, or None
    next: Any  # `next_runs`, or None
    flops: float  # the budget that is planned for
    largest: float  # FLOP of the largest run
    unsaid: tuple[str, ...]  # what could not be computed, and why

    @property
    def form_free(self) -> "Plan | None":
        """The plan whose widths rest on no formula, else the first that has widths."""
        free = {f.law.full_name for f in self.fits if f.measured and not continuous(f.law)}
        plans = [p for p in self.plans if len(p.regret) > 1]
        return next((p for p in plans if p.law in free), next(iter(plans), None))

    @property
    def rounded(self) -> Fit | None:
        """A fit of what rounding costs."""
        return next((f for f in self.fits if f.law.paired), None)

    @property
    def lead(self) -> Fit | None:
        """The fit of losses that figures of one fit show."""
        return next(iter(self.fits), None)

    def plan_of(self, one: Fit) -> "Plan | None":
        return next((p for p in self.plans if p.law == one.law.full_name), None)


def findings(
    frame: Any, *, store: Path | None, laws: Sequence[str], fits: Sequence[Fit], flops: float | None, cost: str
) -> Findings:  # fmt: skip
    """Fits (or those given), plans, and what to train next; what is impossible is said and not raised."""
    unsaid: list[str] = []
    cost_model(
        cost
    )  # a name that there is none of is the user's mistake, and not a gap of the data
    if flops is not None and not (np.isfinite(flops) and flops > 0):
        raise ValueError(f"flops must be positive and finite, got {flops:g}")
    chosen = [known(name) for name in laws or suitable(frame)]
    made = list(fits) or _fitted(frame, chosen, unsaid)
    unsaid += [s for f in fits for s in _of_other_rows(frame, f)]
    known_C = spent(frame[["N", "D"]].dropna()) if {"N", "D"} <= set(frame) else np.zeros(0)
    largest = float(np.max(known_C, initial=0.0))
    C = flops or FURTHER * largest
    plans = [_try(f"plan of {f.law.full_name}", lambda f=f: plan(f, flops=C, cost=cost), unsaid) for f in made]  # fmt: skip
    bits = [f for f in made if f.measured and (f.law.scales or f.law.added)]
    budgets = sorted({C, 100 * C, largest})
    return Findings(
        frame=frame, store=store, fits=tuple(made), plans=tuple(p for p in plans if p is not None), flops=C, largest=largest,
        widths=_try("best width by law", lambda: beliefs(bits, flops=budgets, costs=tuple(dict.fromkeys((cost, *COSTS)))), unsaid) if bits else None,
        laws=_try("laws out of sample", lambda: out_of_sample.numbers(_plain(made)), unsaid) if made else None,
        next=_try("next runs", lambda: next_runs(bits[0], NEXT, flops=C, cost=cost), unsaid) if bits else None,
        unsaid=tuple(unsaid),
    )  # fmt: skip


def suitable(frame: Any) -> tuple[str, ...]:
    """The laws that these columns allow."""
    low = trained_low(frame)
    rounded = {"P_post", "delta_ptq"} <= set(frame) and bool((frame["P_post"] < OFF).any())
    return (*(("neff_free", "neff_kumar") if low else ("chinchilla",)), *(("ptq_kumar",) if rounded else ()))  # fmt: skip


def trained_low(frame: Any) -> bool:
    """Whether some run was trained below 16 bits."""
    return any(c in frame and bool((frame[c] < OFF).any()) for c in ("P_w", "P_a", "P_kv"))


def _plain(fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """Fits of losses alone, where there are any."""
    return tuple(f for f in fits if not f.law.paired) or tuple(fits)


def _fitted(frame: Any, laws: Sequence[Law], unsaid: list[str]) -> list[Fit]:
    rounded = _one_method(frame, unsaid) if any(one.paired for one in laws) else frame
    found = [
        _try(f"fit of {one.name}", lambda one=one: fit(rounded if one.paired else frame, one), unsaid)
        for one in laws
    ]  # fmt: skip
    return [f for f in found if f is not None]


def _one_method(frame: Any, unsaid: list[str]) -> Any:
    """Without the δ of all PTQ methods but one: `rtn`, which others are held against, else the commonest."""
    if not {"ptq", "P_post"} <= set(frame):
        return frame
    rows = frame["ptq"][frame["P_post"] < OFF].value_counts()
    if len(rows) < 2:
        return frame
    kept = "rtn" if "rtn" in rows else str(rows.index[0])
    others = ", ".join(sorted(str(m) for m in rows.index if m != kept))
    unsaid.append(f"δ of {others}: PTQ here is {kept}; precisionlaws fit --by-method compares them")
    return frame[~((frame["P_post"] < OFF) & (frame["ptq"] != kept))]


def _of_other_rows(frame: Any, one: Fit) -> list[str]:
    """A stored fit beside a store that has grown."""
    try:
        same = select(frame, one.law).sha256 == one.sha256
    except ValueError as why:
        return [f"the rows of the fit of {one.law.full_name} are not among these: {why}"]
    return [] if same else [f"the fit of {one.law.full_name} is of other rows than these: fit again"]  # fmt: skip


def _try(what: str, make: Any, unsaid: list[str]) -> Any:
    """What `make` makes; None, and the reason in `unsaid`, where the data do not allow it."""
    try:
        return make()
    except ValueError as why:
        unsaid.append(f"{what}: {why}")
        return None


def counts(frame: Any) -> Mapping[str, float]:
    """runs, points, families, sizes, tokens, seconds, FLOP: of finished training."""
    runs = frame.drop_duplicates("run_id") if "run_id" in frame else frame
    final = runs[runs["eval_id"] == "final"] if "eval_id" in runs else runs
    out: dict[str, float] = {"runs": len(runs), "points": len(frame)}
    out |= {"families": frame["family"].nunique()} if "family" in frame else {}
    for column in ("N", "D", "seed"):
        out |= {column: frame[column].nunique()} if column in frame else {}
    for column in ("seconds", "flops"):
        if column in final and final[column].notna().any():
            out[column] = float(final[column].sum())
    return out
