"""What may be held when a plan is made, which of it binds, and which of it cannot be met."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws import OFF
from precisionlaws.planning.surface import BITS_PER_BYTE, Question
from precisionlaws.planning.widths import Widths, continuous

FIXED = ("N", "D", "P", "memory")
TIGHT = 1 - 1e-6


def check(fit: Fit, q: Question, table: Widths, fixed: Mapping[str, float]) -> None:
    """Raises: ValueError for a question that has no answer."""
    _positive("flops", q.budget.flops)
    if not (np.isfinite(q.budget.served) and q.budget.served >= 0):
        raise ValueError(f"served must be tokens, 0 or more, got {q.budget.served:g}")
    for column in ("N", "D"):
        if len(np.unique(fit.rows[column])) < 2:
            only = float(np.min(fit.rows[column]))
            raise ValueError(
                f"all runs of this fit have {column} = {only:g}: what {column} does to the loss is unknown, and no plan follows"
            )
    unknown = [k for k in fixed if k not in FIXED]
    if unknown:
        raise ValueError(f"fixed may hold {', '.join(FIXED)}, got {', '.join(unknown)}")
    for name, value in fixed.items():
        _positive(name, value)
    if {"N", "D", "P"} <= set(fixed):
        raise ValueError("fixed must leave something to choose: N, D and P are all fixed")
    if "P" in fixed:
        _width(fit, table, fixed["P"])


def binding(q: Question, answer: Mapping[str, float]) -> tuple[str, ...]:
    """Which constraints hold with equality at an answer."""
    N, D, P = (answer[k] for k in ("N", "D", "P"))
    spent = D * q.budget.per_token(N, P) + q.budget.serving(N, P)
    out = ["flops"] if spent >= TIGHT * q.budget.flops else []
    if "memory" in q.fixed and TIGHT * q.most_N(P) <= N:
        out.append("memory")
    return (*out, *(k for k in ("N", "D") if k in q.fixed))


def impossible(q: Question, table: Widths, held: float | None) -> str:
    """Why no width meets the constraints: which of them binds, and by how much."""
    P = float(table.P[0]) if held is None else held
    at = f"{P:g} bits" + ("" if held is not None else ", the smallest width measured in every role")
    N = q.fixed.get("N")
    if N is not None and q.most_N(P) < N:
        need = N * (P if "w" in q.roles else OFF) / BITS_PER_BYTE
        return f"memory binds: N = {N:g} takes {need:.4g} bytes at {at}, and memory = {q.fixed['memory']:g}"
    least = min(float(b) for b in table.P) if held is None else held
    if N is not None and (need := float(q.budget.serving(N, least))) >= q.budget.flops:
        return f"flops binds: serving {q.budget.served:g} tokens with N = {N:g} costs {need:.4g} at {at}, and flops = {q.budget.flops:g}"
    if N is not None and "D" in q.fixed:
        D = q.fixed["D"]
        need = float(D * q.budget.per_token(N, least) + q.budget.serving(N, least))
        return f"flops binds: N = {N:g} and D = {D:g} cost {need:.4g} at {at}, and flops = {q.budget.flops:g}"
    if "D" in q.fixed:
        return f"flops binds: D = {q.fixed['D']:g} tokens leave less than one parameter of flops = {q.budget.flops:g}"
    return f"{q.law.full_name} has no best N and D of at least 1 for flops = {q.budget.flops:g} at {at}"


def _positive(name: str, value: Any) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {name} = {value:g}")


def _width(fit: Fit, table: Widths, P: float) -> None:
    if continuous(fit.law):
        if not table.P[0] <= P <= OFF:
            raise ValueError(
                f"P must be from {table.P[0]:g} (the smallest width trained in every role) to 16 bits, got {P:g}"
            )
    elif P not in table.P:
        raise ValueError(
            f"P must be one of {', '.join(f'{b:g}' for b in table.P)} bits, got {P:g}: {fit.law.full_name} knows no other"
        )
