"""What a plan rests on that the data do not carry, in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from precisionlaws.fitting import Fit
from precisionlaws.laws.base import OFF, ROLES, Array
from precisionlaws.planning.surface import Question
from precisionlaws.planning.widths import Widths, continuous

NEAR = 1.15  # of the largest measured value: not worth a word
VAGUE = 100.0  # ratio of the ends of an interval beyond which a quantity is called undetermined


def doubts(
    fit: Fit,
    q: Question,
    table: Widths,
    answer: Mapping[str, float],
    samples: Mapping[str, Array],
    critical: Any,
) -> list[str]:
    """Warnings of a plan, most basic first."""
    out, alone = [], q.separable and bool(table.roles)
    if not fit.certified:
        why = f": {fit.open_base[0]}" if fit.open_base else " at a minimum"
        out.append(f"the fit is not certified{why}")
    if fit.unidentified:
        tail = "; the best width does not" if alone else ""
        out.append(
            f"the fit leaves {', '.join(fit.unidentified)} open: N, D and the loss of this plan rest on them{tail}"
        )
    if fit.interaction is not None and fit.interaction.rejected:
        out.append(
            f"the product law does not hold ({', '.join(fit.interaction.rejected)}), and the best width rests on it"
        )
    out += _far(fit, answer)
    vague = [k for k in ("N", "D") if _ratio(samples[k]) > VAGUE]
    if vague:
        tail = "; the best width does not depend on them" if alone else ""
        out.append(
            f"{' and '.join(vague)} not determined: the 95% interval spans a factor of more than {VAGUE:g}{tail}"
        )
    if "E" in fit.certificate.bounds:
        out.append("E is at its bound: the loss far beyond the data is a guess within its interval")
    if table.roles:
        out += _about_widths(fit, q, table, answer)
    else:
        out.append("no law of training bits in this fit: the plan is for 16 bits")
    beyond = (
        [f"{P:g}" for P in critical["P_post"][critical["extrapolated"]]] if len(critical) else []
    )
    if beyond:
        out.append(f"D_crit at {', '.join(beyond)} bits lies beyond the largest D measured")
    return out


def _far(fit: Fit, answer: Mapping[str, float]) -> list[str]:
    out = []
    for column in ("N", "D"):
        top, bottom = float(np.max(fit.rows[column])), float(np.min(fit.rows[column]))
        if answer[column] > NEAR * top:
            out.append(
                f"extrapolation: {column} = {answer[column]:.3g} is {np.log10(answer[column] / top):.1f} decades above the largest measured ({top:.3g})"
            )
        elif answer[column] < bottom / NEAR:
            out.append(
                f"extrapolation: {column} = {answer[column]:.3g} is {np.log10(bottom / answer[column]):.1f} decades below the smallest measured ({bottom:.3g})"
            )
    return out


def _about_widths(fit: Fit, q: Question, table: Widths, answer: Mapping[str, float]) -> list[str]:
    out = []
    absent = [r for r in q.budget.cost.roles if r not in table.roles]
    if absent:
        out.append(
            f"{', '.join(absent)} never below 16 bits in the data: taken as costless at P bits"
        )
    if answer["P"] <= table.P[0]:
        out.append(
            f"the best width is the smallest trained in every role ({table.P[0]:g} bits): a smaller one may be better"
        )
    joint = [k for k in fit.params if k.startswith("kappa[")]
    name = "".join(f"{r}{answer['P']:g}" for r in ROLES if r in table.roles)
    if joint and answer["P"] < OFF and f"kappa[{name}]" not in joint:
        out.append(
            f"{name} was not trained jointly: its efficiency is the product of its parts, without {', '.join(joint)}"
        )
    if continuous(fit.law):
        out.append(
            "the interval of P is that of the formula; neff_free gives it from the measured widths alone"
        )
    elif not table.trained[list(table.P).index(answer["P"])]:
        out.append(
            f"{answer['P']:g} bits was not trained in every role: its efficiency is interpolated"
        )
    return out


def _ratio(draws: Array) -> float:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(high / low) if low > 0 else np.inf
