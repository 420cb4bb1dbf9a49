"""precisionlaws plan: what to train for a budget."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, pairs, print_json


def command(
    fits: Annotated[list[Path], typer.Argument(help="Fits as JSON (precisionlaws fit -o).")],
    flops: Annotated[
        str, typer.Option(help="Budget, FLOPs at 16 bits; several with commas between.")
    ],
    cost: Annotated[
        str, typer.Option(help="Cost models with commas between (config list cost).")
    ] = "paper",
    fixed: Annotated[
        str | None,
        typer.Option(
            help="What is given: N=1e6, D=1e9, P=8, or memory=1e9 (most bytes of the weights).",
            show_default=False,
        ),
    ] = None,
    served: Annotated[
        float, typer.Option(help="Tokens served over the model's life, paid of the budget too.")
    ] = 0.0,
    runs: Annotated[
        int | None,
        typer.Option("--next", help="The runs to train next, so many.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """N*, D* and P* for a budget, with intervals; the bit widths that cost at most 5% more.

    Several fits, budgets or costs: the best width under each, where they disagree. --next K with two fits: the
    runs that tell the laws apart.
    """
    from precisionlaws.cli.plot import read_fit
    from precisionlaws.planning import plan

    budgets = [number("--flops", text) for text in flops.split(",")]
    costs, read = cost.split(","), [read_fit(path) for path in fits]
    if runs is not None:
        return tell_next(read, runs, budgets[0], costs[0], json)
    given = {k: number(f"--fixed {k}", v) for k, v in pairs(fixed, "--fixed").items()}
    if len(read) * len(budgets) * len(costs) > 1:
        if given or served:
            raise ValueError("--fixed and --served are for one fit, one budget and one cost")
        return compare(read, budgets, costs, json)
    answer = plan(read[0], flops=budgets[0], cost=costs[0], fixed=given, served=served)
    print(answer.to_json() if json else answer.summary())


def compare(fits: list[Any], budgets: list[float], costs: list[str], json: bool) -> None:
    from precisionlaws.planning.beliefs import beliefs, sentences

    table = beliefs(fits, flops=budgets, costs=costs)
    said = sentences(table)
    if json:
        return print_json({"rows": table.to_dict("records"), "says": said})
    shown = table.drop(columns=["form_free", "shares"])
    print(shown.to_string(index=False, float_format="{:.4g}".format), *said, sep="\n")


def tell_next(fits: list[Any], K: int, flops: float, cost: str, json: bool) -> None:
    from precisionlaws.planning.next import lines, next_runs, unit_of

    if len(fits) > 2:
        raise ValueError(f"--next takes one fit, or two to tell apart; got {len(fits)}")
    other = fits[1] if len(fits) == 2 else None
    table = next_runs(fits[0], K, flops=flops, cost=cost, other=other)
    if json:
        return print_json(table.to_dict("records"))
    print(*lines(table, unit_of(fits)), sep="\n")


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
