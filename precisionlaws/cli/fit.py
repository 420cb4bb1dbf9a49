"""precisionlaws fit: law coefficients with intervals."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Out, pairs, print_json, printable


def command(
    data: Annotated[Path, typer.Argument(help="A store, CSV, parquet or JSON file.")],
    law: Annotated[
        str, typer.Option("--law", help="Laws with commas between (config list law).")
    ] = "chinchilla",
    columns: Annotated[
        str | None,
        typer.Option(
            help="Names in the file, or arithmetic: N=params,D=flops/(6*N).", show_default=False
        ),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(
            "--table", help="A known public table (config list table).", show_default=False
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows that satisfy this, e.g. 'P_w >= 4'.")
    ] = None,
    loss: Annotated[str, typer.Option(help="huber, ls or lad, of log loss.")] = "huber",
    delta: Annotated[float, typer.Option(help="Threshold of huber, in log loss.")] = 1e-3,
    intervals: Annotated[str, typer.Option(help="family, run or wald.")] = "family",
    resamples: Annotated[int, typer.Option(help="Draws behind intervals.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of starts and draws.")] = 0,
    solver: Annotated[str, typer.Option(help="batched, or scipy as a check.")] = "batched",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Also under other choices.")
    ] = False,
    compare: Annotated[bool, typer.Option("--compare", help="One table over the laws.")] = False,
    out: Out = None,
    json: Json = False,
) -> None:
    """Fit laws to runs, one's own or anyone's; exit 3 when a fit is not certified at a minimum.

    --out: a JSON file, or with several laws a folder that gets one per law.
    """
    from precisionlaws.fitting import compare as compare_laws
    from precisionlaws.fitting import fit
    from precisionlaws.fitting.truth import truth
    from precisionlaws.laws import law as known
    from precisionlaws.store import load
    from precisionlaws.where import where as rows

    laws = [known(name) for name in law.split(",")]
    frame = load(data, pairs(columns, "--columns"), public)
    frame = frame if where is None else rows(frame, where)
    if compare:
        table = compare_laws(frame, laws)
        print_json(table.to_dict("records")) if json else print(table.to_string(index=False))
        return
    fits = [
        fit(
            frame,
            each,
            loss=loss,
            delta=delta,
            intervals=intervals,
            resamples=resamples,
            seed=seed,
            solver=solver,
            sensitivity=sensitivity,
        )
        for each in laws
    ]
    if out is not None:
        save(fits, laws, out)
    known_entropy = [truth(frame, f) for f in fits]
    if json:
        import json as codec

        parsed = [
            codec.loads(f.to_json()) | ({"truth": said} if said else {})
            for f, said in zip(fits, known_entropy, strict=True)
        ]
        print_json({"fits": parsed})
    else:
        reports = zip((f.summary() for f in fits), known_entropy, strict=True)
        print(printable("\n\n".join("\n".join(filter(None, report)) for report in reports)))
    if not all(f.certified for f in fits):
        raise typer.Exit(3)


def save(fits: list[Any], laws: list[Any], out: Path) -> None:
    from precisionlaws.store import write

    many = len(fits) > 1 or out.is_dir() or not out.suffix
    for fitted, law in zip(fits, laws, strict=True):
        write(out / f"{law.name}.json" if many else out, fitted.to_json() + "\n")
