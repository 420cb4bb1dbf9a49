"""precisionlaws plan: what to train for a budget."""

from pathlib import Path
from typing import Annotated

import typer

from precisionlaws.cli.shared import Json, pairs


def command(
    fit: Annotated[Path, typer.Argument(help="A fit as JSON (precisionlaws fit -o).")],
    flops: Annotated[float, typer.Option(help="Training budget, FLOPs at 16 bits.")],
    cost: Annotated[str, typer.Option(help="Cost model: paper is C = (6/16) N D P.")] = "paper",
    fixed: Annotated[
        str | None, typer.Option(help="What is given: N=1e6, D=1e9 or P=8.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """N*, D* and P* for a budget, with intervals; the bit widths that cost at most 5% more."""
    from precisionlaws.cli.plot import read_fit
    from precisionlaws.planning import plan

    given = {k: number(k, v) for k, v in pairs(fixed, "--fixed").items()}
    answer = plan(read_fit(fit), flops=flops, cost=cost, fixed=given)
    print(answer.to_json() if json else answer.summary())


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--fixed {name} must be a number, got {text!r}") from None
