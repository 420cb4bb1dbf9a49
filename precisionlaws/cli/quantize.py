"""precisionlaws quantize: PTQ of what is trained."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, print_json

COLUMNS = ["run_id", "eval_id", "ptq", "P_post", "bits_effective", "loss", "delta_ptq", "delta_ptq_se", "ptq.info.relative_proxy"]  # fmt: skip


def command(
    store: Annotated[Path, typer.Argument(help="The store whose runs to quantize.")],
    method: Annotated[
        str, typer.Option(help="PTQ methods with commas between (config list ptq).")
    ] = "rtn",
    bits: Annotated[str, typer.Option(help="Bit widths with commas between.")] = "3,4,5,6,8",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Options of the methods, e.g. group=32, or gptq.act_order=false of one.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only runs that satisfy this, e.g. 'N > 1e4'.")
    ] = None,
    low_precision: Annotated[
        bool,
        typer.Option(
            "--low-precision", help="Also runs with weights trained at more bits than these."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would make; make nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Quantize the weights of every finished run with unquantized weights; one point per run, method and width."""
    from precisionlaws.sweep.api import quantize
    from precisionlaws.sweep.quantizable import layer_warnings, quantize_plan

    asked = (store, method, bits, options or [], where, low_precision)
    if dry_run:
        plan = quantize_plan(*asked)
        print_json(plan) if json else print(words(plan))
        return
    try:
        frame = quantize(*asked, done=say)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    for line in layer_warnings(store, frame):
        print(f"warning: {line}", file=sys.stderr)
    if json:
        print_json(frame.filter(COLUMNS).to_dict("records"))
    else:
        print(frame.filter(COLUMNS).to_string(index=False))


def say(run: str, point: str, delta: float) -> None:
    if sys.stderr.isatty():
        print(f"{run} {point}: δ = {delta:.4g}", file=sys.stderr)


def words(plan: dict[str, Any]) -> str:
    lines = [
        f"{row['method']} at {row['bits']:g} bits{stored(row['bits_effective'])}: {row['points']} points, "
        f"{row['to_do']} of them to do"
        for row in plan["methods"]
    ]
    lines += [f"{plan['runs']} runs, {plan['points']} points, {plan['to_do']} of them to do"]
    return "\n".join([*lines, *(f"warning: {w}" for w in plan["warnings"])])


def stored(span: list[float] | None) -> str:
    """Effective bits of the smallest and the largest run."""
    if span is None:
        return ""
    low, high = (f"{b:.3g}" for b in span)
    return f" ({low} stored)" if low == high else f" ({low} to {high} stored)"
