"""precisionlaws quantize: PTQ of what is trained."""

from pathlib import Path
from typing import Annotated

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
    json: Json = False,
) -> None:
    """Quantize the weights of every finished run with unquantized weights; one point per run and width."""
    from precisionlaws.sweep.api import quantize

    frame = quantize(store, method, bits, options or [], where)
    columns = ["run_id", "eval_id", "P_post", "bits_effective", "loss", "delta_ptq", "delta_ptq_se"]
    if json:
        print_json(frame.filter(columns).to_dict("records"))
    else:
        print(frame.filter(columns).to_string(index=False))
