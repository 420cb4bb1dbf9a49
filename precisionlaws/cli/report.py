"""precisionlaws report: one HTML page with the answer."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[Path, typer.Argument(help="A store, CSV, parquet or JSON file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write.")] = Path("report.html"),
    law: Annotated[
        str | None, typer.Option("--law", help="Laws with commas between; by default what the columns allow.", show_default=False)
    ] = None,
    fits: Annotated[
        Path | None, typer.Option(help="A folder of fits of these rows (precisionlaws fit -o), instead of fitting.", show_default=False)
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names in the file, or arithmetic: N=params,D=flops/(6*N).", show_default=False)
    ] = None,
    public: Annotated[
        str | None, typer.Option("--table", help="A known public table (config list table).", show_default=False)
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Budget to plan for; by default ten times the largest run.", show_default=False)
    ] = None,
    cost: Annotated[str, typer.Option(help="Cost model (config list cost).")] = "paper",
    where: Annotated[
        str | None, typer.Option(help="Only rows that satisfy this, e.g. 'P_w >= 4'.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Write the answer, its figures, tables, doubts and method as one HTML file that loads nothing.

    Exit 3 when no law could be fitted, or one is not certified at a minimum; the page says why.
    """
    import sys

    import matplotlib as mpl

    mpl.use("Agg")
    from precisionlaws.cli.plot import read_fit
    from precisionlaws.cli.shared import pairs, printable
    from precisionlaws.plots.report import report

    given = [read_fit(p) for p in sorted(fits.glob("*.json"))] if fits else []
    if fits and not given:
        raise ValueError(f"{fits} holds no fits; precisionlaws fit -o {fits} writes them")
    names = law.split(",") if law else []
    made = report(
        data, laws=names, fits=given, flops=flops, cost=cost, columns=pairs(columns, "--columns"), table=public,
        where=where, title=title
    )  # fmt: skip
    print(made.save(out))
    for why in made.unsaid:
        print(f"not in the report: {printable(why)}", file=sys.stderr)
    if not made.certified:
        raise typer.Exit(3)
