"""precisionlaws fit: law coefficients with intervals."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Out, pairs, print_json, printable

HIDDEN = ("law", "base", "terms", "by")  # of a printed comparison: the full name says them


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
    compare: Annotated[
        bool, typer.Option("--compare", help="Which law predicts larger runs best?")
    ] = False,
    bases: Annotated[
        str | None,
        typer.Option(help="Compare the laws' terms on each: chinchilla,gamma.", show_default=False),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            help="Predict larger runs from smaller, by compute, N or D.", show_default=False
        ),
    ] = None,
    by_method: Annotated[
        bool, typer.Option("--by-method", help="Fit δ of every PTQ method, and compare them.")
    ] = False,
    formats: Annotated[
        bool,
        typer.Option(
            "--formats",
            help="Rank the number formats of the weights, and predict each from the others.",
        ),
    ] = False,
    bits: Annotated[
        str | None,
        typer.Option(
            help="P_post as nominal bits, or effective: as stored, with scales; methods are compared by the latter.",
            show_default=False,
        ),
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Fit laws to runs, one's own or anyone's; exit 3 when a fit is not certified: not at a minimum, or of runs that
    cannot determine the base (one D/N, two sizes, fewer than four losses for each of its parameters).

    --out: a JSON file, or with several laws a folder that gets one per law.
    """
    from precisionlaws.fitting import fit
    from precisionlaws.fitting.fit import threshold_of
    from precisionlaws.fitting.truth import truth
    from precisionlaws.laws import law as known
    from precisionlaws.store import load
    from precisionlaws.where import where as rows

    laws = [known(name) for name in law.split(",")]
    frame = load(data, pairs(columns, "--columns"), public)
    frame = frame if where is None else rows(frame, where)
    if compare or bases or holdout:
        if out is not None:
            raise ValueError("--out is for fits; with --compare, --bases or --holdout use --json")
        table, said = comparison(
            frame, laws, bases, holdout, compare=compare, delta=threshold_of(loss, delta)
        )
        if json:
            print_json({"rows": table.to_dict("records"), "says": said})
        else:
            shown = table.drop(columns=[c for c in HIDDEN if c in table])
            print(shown.to_string(index=False, float_format="{:.4g}".format))
            print(*(f"\n{line}" for line in said), sep="", end="\n" if said else "")
        return
    options: dict[str, Any] = {
        "loss": loss, "delta": delta, "intervals": intervals, "resamples": resamples, "seed": seed,
        "solver": solver, "sensitivity": sensitivity,
    }  # fmt: skip
    if formats:
        if out is not None:
            raise ValueError("--out is for fits; with --formats use --json, or plot formats")
        ranking(frame, laws, options, json)
        return
    if by_method:
        methods(frame, laws, bits or "effective", options, out, json)
        return
    from precisionlaws.fitting.methods import with_bits

    fits = [fit(with_bits(frame, each, bits or "nominal"), each, **options) for each in laws]
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


def comparison(
    frame: Any, laws: list[Any], bases: str | None, by: str | None, *, compare: bool, delta: float
) -> tuple[Any, list[str]]:
    """One table over the laws and what it says, or of each law its origins and baselines."""
    import pandas as pd

    from precisionlaws.fitting.compare import compare as together
    from precisionlaws.fitting.compare import on_bases, verdict
    from precisionlaws.fitting.foretell import compare_delta, holdout_delta
    from precisionlaws.fitting.holdout import holdout

    laws = on_bases(laws, bases.split(",")) if bases else laws
    paired, by = [one for one in laws if one.paired], by or "compute"
    if compare or bases:
        table = together(frame, laws, by=by, delta=delta)
        said = verdict(table)
        if len({one.full_name for one in paired}) > 1:
            of_delta = compare_delta(frame, paired, by=by, delta=delta)
            table, said = pd.concat([table, of_delta]), said + verdict(of_delta)
        return table, said
    tables = [holdout(frame, law, by, delta=delta).assign(of="loss") for law in laws]
    tables += [holdout_delta(frame, law, by, delta=delta).assign(of="delta") for law in paired]
    return pd.concat(tables, ignore_index=True), []


def ranking(frame: Any, laws: list[Any], options: dict[str, Any], json: bool) -> None:
    """Formats by what they cost; of a law, its base counts."""
    from precisionlaws.fitting.formats import rank, shown

    found = rank(frame, base=laws[0].full_name.partition("+")[0], **options)
    if json:
        print_json({"rows": found.table.to_dict("records"), "says": list(found.says)})
    else:
        print(printable("\n".join([*shown(found.table), "", *found.says])))
    if not found.measured.certified:
        print("\nwarning: the fit behind N_eff/N is not certified at a minimum", file=sys.stderr)
        raise typer.Exit(3)


def methods(
    frame: Any, laws: list[Any], bits: str, options: dict[str, Any], out: Path | None, json: bool
) -> None:
    """Every law, PTQ method by method: a table of its exponents and what differs. --out: a folder of fits."""
    import pandas as pd

    from precisionlaws.fitting.methods import by_method, shown, table, verdict, warnings
    from precisionlaws.store import write

    tables: list[Any] = []
    for law in laws:
        fits = by_method(frame, law, bits, **options)
        tables.append(table(fits).assign(law=law.full_name, bits=bits))
        for name, each in fits.items():
            if out is not None:
                write(out / f"{law.name}-{name}.json", each.to_json() + "\n")
        if not json:
            print(f"{law.full_name}, P_post in {bits} bits, 95% intervals")
            print(printable("\n".join(["", *shown(tables[-1]), "", *verdict(tables[-1])])))
            said = warnings(fits)
            print(*(printable(f"\nwarning: {w}") for w in said), sep="", end="\n" if said else "")
    if json:
        print_json({"rows": pd.concat(tables).to_dict("records"), "says": [v for t in tables for v in verdict(t)]})  # fmt: skip
    if not all(t["certified"].all() for t in tables):
        raise typer.Exit(3)


def save(fits: list[Any], laws: list[Any], out: Path) -> None:
    from precisionlaws.store import write

    many = len(fits) > 1 or out.is_dir() or not out.suffix
    for fitted, law in zip(fits, laws, strict=True):
        write(out / f"{law.name}.json" if many else out, fitted.to_json() + "\n")
