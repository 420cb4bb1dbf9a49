"""precisionlaws quantize: PTQ of what is trained."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, print_json


def command(
    store: Annotated[Path, typer.Argument(help="The store whose runs to quantize.")],
    method: Annotated[str, typer.Option(help="A PTQ method (config list ptq).")] = "rtn",
    bits: Annotated[str, typer.Option(help="Bit widths with commas between.")] = "3,4,5,6,8",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="Options of the method, e.g. group=32.", show_default=False),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only runs that satisfy this, e.g. 'N > 1e4'.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show how many points it would make; make none.")
    ] = False,
    json: Json = False,
) -> None:
    """Quantize the weights of every finished run with unquantized weights; one point per run and width."""
    from precisionlaws.sweep.api import quantize, quantize_plan

    if dry_run:
        plan = quantize_plan(store, method, bits, options or [], where)
        print_json(plan) if json else print(words(plan))
        return
    frame = quantize(store, method, bits, options or [], where)
    columns = ["run_id", "eval_id", "P_post", "bits_effective", "loss", "delta_ptq", "delta_ptq_se"]
    if json:
        print_json(frame.filter(columns).to_dict("records"))
    else:
        print(frame.filter(columns).to_string(index=False))


def words(plan: dict[str, Any]) -> str:
    widths = ", ".join(f"{b:g}" for b in plan["bits"])
    return (
        f"{plan['method']} at {widths} bits: {plan['runs']} runs, {plan['points']} points, "
        f"{plan['to_do']} of them to do"
    )
