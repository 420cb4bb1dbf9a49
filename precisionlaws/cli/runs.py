"""precisionlaws runs: what a store holds."""

from pathlib import Path
from typing import Annotated

import typer

from precisionlaws.cli.shared import Json, Out, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and export runs.")
Where = Annotated[str | None, typer.Option(help="Only rows that satisfy this, e.g. 'P_w <= 4'.")]
StoreArgument = Annotated[Path, typer.Argument(help="A store, CSV or parquet file.")]
SHOWN = "run_id,eval_id,N,D,P_w,P_a,P_kv,P_post,loss,delta_ptq,status"


@app.command("list", no_args_is_help=True)
def list_(
    store: StoreArgument,
    where: Where = None,
    sort: Annotated[
        str | None, typer.Option(help="Column to sort by; -column: descending.")
    ] = None,
    columns: Annotated[str, typer.Option(help="Columns with commas between.")] = SHOWN,
    json: Json = False,
) -> None:
    """One line per point."""
    from precisionlaws.config import ConfigError, nearest
    from precisionlaws.store import load
    from precisionlaws.where import where as rows

    frame = load(store)
    frame = frame if where is None else rows(frame, where)
    shown = [c for c in columns.split(",") if columns != SHOWN or c in frame]
    for name in (*shown, *([sort.lstrip("-")] if sort else [])):
        if name not in frame:
            raise ConfigError(f"no column {name!r}{nearest(name, frame.columns)}")
    if sort:
        frame = frame.sort_values(
            sort.lstrip("-"), ascending=not sort.startswith("-"), kind="stable"
        )
    print_json(frame.filter(shown).to_dict("records")) if json else print(
        frame.filter(shown).to_string(index=False)
    )


@app.command(no_args_is_help=True)
def show(
    store: StoreArgument, run_id: Annotated[str, typer.Argument(help="Its name, or a unique part.")]
) -> None:
    """Everything about one run, as JSON."""
    from precisionlaws.config import ConfigError, nearest
    from precisionlaws.store import load

    frame = load(store)
    names = sorted({n for n in frame.run_id if run_id in n})
    if len(names) != 1:
        found = f"{len(names)} runs match {run_id!r}: {', '.join(names[:5])}"
        raise ConfigError(
            found if names else f"no run {run_id!r}{nearest(run_id, set(frame.run_id))}"
        )
    print_json(frame.loc[frame.run_id == names[0]].to_dict("records"))


@app.command(no_args_is_help=True)
def export(store: StoreArgument, out: Out = None, where: Where = None) -> None:
    """The frame as CSV or parquet, by the ending of --out (CSV to standard output without it)."""
    import sys

    from precisionlaws.store import load, write
    from precisionlaws.where import where as rows

    frame = load(store)
    frame = frame if where is None else rows(frame, where)
    if out is None:
        frame.to_csv(sys.stdout, index=False)
    elif out.suffix == ".parquet":
        import io

        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write(out, buffer.getvalue())
    else:
        write(out, frame.to_csv(index=False))
