"""precisionlaws runs: what a store holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Out, finite, print_json, printable

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, compare and export runs; check and clear a store.",
)
Where = Annotated[
    str | None,
    typer.Option(help="Only rows that satisfy this, e.g. 'P_w <= 4 and loss < 3'."),
]
StoreArgument = Annotated[Path, typer.Argument(help="A store, CSV or parquet file.")]
Folder = Annotated[Path, typer.Argument(help="A store.")]
Run = Annotated[str, typer.Argument(help="Its name, or a part that no other has.")]
SHOWN = "run_id,eval_id,N,D,P_w,P_a,P_kv,P_post,loss,delta_ptq,status"
FORMATS = (".csv", ".json", ".parquet")


@app.command("list", no_args_is_help=True)
def list_(
    store: StoreArgument,
    where: Where = None,
    sort: Annotated[
        str | None, typer.Option(help="Column to sort by; -column: descending.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many rows.", min=1)] = None,
    columns: Annotated[str, typer.Option(help="Columns with commas between.")] = SHOWN,
    json: Json = False,
) -> None:
    """One line per point."""
    frame = rows_of(store, where)
    shown = [c for c in columns.split(",") if columns != SHOWN or c in frame]
    known(frame, [*shown, *([sort.lstrip("-")] if sort else [])])
    if sort:
        frame = in_order(frame, sort)
    frame = frame.filter(shown).head(len(frame) if limit is None else limit)
    if frame.empty and not json:
        print(f"no row satisfies {where!r}")
        return
    print_json(frame.to_dict("records")) if json else print(printable(frame.to_string(index=False)))


@app.command(no_args_is_help=True)
def show(store: StoreArgument, run: Run, json: Json = False) -> None:
    """One run: result, settings, PTQ points, training curve."""
    from precisionlaws.runs import describe, find
    from precisionlaws.store import load

    frame = load(store)
    known(frame, ["run_id"])
    found = describe(frame, files(store), find(frame, run))
    print_json(found) if json else print(printable(words(found)))


@app.command(no_args_is_help=True)
def compare(store: StoreArgument, a: Run, b: Run, json: Json = False) -> None:
    """What differs between two runs: settings, loss, training curve (b minus a)."""
    from precisionlaws.runs import difference, find
    from precisionlaws.store import load

    frame = load(store)
    known(frame, ["run_id"])
    found = difference(frame, files(store), find(frame, a), find(frame, b))
    print_json(found) if json else print(printable(difference_words(found)))


@app.command(no_args_is_help=True)
def export(
    store: StoreArgument,
    out: Out = None,
    where: Where = None,
    without: Annotated[
        list[Path] | None,
        typer.Option(help="A frame whose points are left out: what was exported before."),
    ] = None,
) -> None:
    """The frame as CSV, JSON or parquet, by the ending of --out (CSV to standard output without it)."""
    import sys

    from precisionlaws.runs import new
    from precisionlaws.store import load, write

    if out is not None and out.suffix not in FORMATS and out.suffix:
        raise ValueError(f"--out must end in {', '.join(FORMATS)}, got {str(out)!r}")
    frame = rows_of(store, where)
    for other in without or []:
        frame = new(frame, load(other))
    if out is None:
        frame.to_csv(sys.stdout, index=False)
    elif out.suffix == ".parquet":
        import io

        buffer = io.BytesIO()
        one_kind(frame).to_parquet(buffer, index=False)
        write(out, buffer.getvalue())
    elif out.suffix == ".json":
        import json

        write(out, json.dumps(finite(frame.to_dict("records")), indent=1) + "\n")
    else:
        write(out, frame.to_csv(index=False))


@app.command(no_args_is_help=True)
def repeat(
    store: StoreArgument,
    sample: Annotated[int, typer.Option(help="So many runs.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Which of them.", min=0)] = 0,
    into: Annotated[Path, typer.Option(help="The store for what is trained.")] = Path("repeats"),
    where: Where = None,
    json: Json = False,
) -> None:
    """Train runs of a table again, from their rows, and compare; exit 1 when one does not come out.

    Where chip, threads and versions are the row's, the loss must be the same to the bit; elsewhere it must be
    within twice the spread between seeds.
    """
    from dataclasses import asdict

    from precisionlaws.sweep.repeat import repeat as again

    frame, done = rows_of(store, where), []
    known(frame, ["run_id", "eval_id", "status", "flops"])
    for run in again(frame, str(into), sample, seed):
        done.append(run)
        if not json:
            print(f"{run.run_id:<56} {run.loss:.6f} {run.again:.6f} {run.difference:+.1e}  {run.verdict}", flush=True)  # fmt: skip
    if json:
        print_json([asdict(r) | {"holds": r.holds} for r in done])
    else:
        same, held = sum(r.difference == 0 for r in done), sum(r.holds for r in done)
        print(f"{same} of {len(done)} the same bits, {held} as they should be")
    if not all(r.holds for r in done):
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
def rm(
    store: Folder,
    runs: Annotated[list[str] | None, typer.Argument(help="Runs, as in show.")] = None,
    where: Where = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with all of their points, or with --where single PTQ points."""
    from precisionlaws.runs import find
    from precisionlaws.store import load, opened
    from precisionlaws.sweep.upkeep import removable, remove, size

    if not runs and where is None:
        raise ValueError("name the runs to remove, or choose them by --where")
    one, frame = opened(store), rows_of(store, where)
    if runs:
        every = load(store)
        names = {find(every, r) for r in runs}
        frame = frame[frame.run_id.isin(names)]
    paths = removable(one, zip(frame.run_id, frame.eval_id, strict=True))
    if not paths:
        print("nothing to remove")
        return
    whole = sum(p.parent.name == "runs" for p in paths)
    said = f"{whole} runs and {len(paths) - whole} PTQ points of others, {bytes_(sum(map(size, paths)))}"
    if not yes and not typer.confirm(f"remove {said}?"):
        raise typer.Exit(1)
    remove(paths)
    print(f"removed {said}")


@app.command(no_args_is_help=True)
def verify(store: Folder, json: Json = False) -> None:
    """Check every row, checkpoint and curve; exit 1 when something is damaged."""
    from precisionlaws.store import opened
    from precisionlaws.sweep.upkeep import verify as findings

    found = sorted(set(findings(opened(store))), key=lambda f: (not f.damaged, f.path))
    damaged = sum(f.damaged for f in found)
    if json:
        print_json([{"path": str(f.path), "what": f.what, "damaged": f.damaged} for f in found])
    else:
        for f in found:
            print(f"{'damaged' if f.damaged else 'left   '}  {f.path}: {f.what}")
        left = len(found) - damaged
        print(f"{damaged} damaged" + f", {left} left over (runs gc clears most)" * bool(left))
    raise typer.Exit(int(damaged > 0))


@app.command(no_args_is_help=True)
def gc(
    store: Folder,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would go; remove nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Clear checkpoints of trunks that no unfinished run needs, what killed processes left behind, and the
    folders of Slurm jobs that have ended with all they were to do in the store."""
    from collections import Counter

    from precisionlaws.store import opened
    from precisionlaws.sweep.upkeep import clear, debris, idle_trunks, size

    one = opened(store)
    found = [*idle_trunks(one), *debris(one), *jobs_of(one)]
    sizes = [size(f.path) for f in found]
    if json:
        print_json([{"path": str(f.path), "what": f.what, "bytes": n} for f, n in zip(found, sizes, strict=True)])  # fmt: skip
    elif dry_run:
        for f, n in zip(found, sizes, strict=True):
            print(f"{bytes_(n):>9}  {f.path}: {f.what}")
    if not dry_run:
        clear(found)
    if not json:
        for what, count in Counter(f.what for f in found).items():
            print(f"{count:>9,}  {what}")
        print(f"{len(found)} files, {bytes_(sum(sizes))} {'to clear' if dry_run else 'cleared'}")


def jobs_of(store: Any) -> list[Any]:
    """Folders of jobs that have ended; none, and why, where that cannot be known."""
    import sys

    from precisionlaws.config import ConfigError
    from precisionlaws.sweep.slurm.manage import ended
    from precisionlaws.sweep.slurm.queue import Silent

    try:
        return list(ended(store))
    except (ConfigError, Silent) as error:
        print(f"folders of Slurm jobs are kept: {error}", file=sys.stderr)
        return []


def rows_of(store: Path, where: str | None) -> Any:
    from precisionlaws.store import load
    from precisionlaws.where import where as rows

    frame = load(store)
    return frame if where is None else rows(frame, where)


def known(frame: Any, names: Iterable[str]) -> None:
    from precisionlaws.config import ConfigError, nearest

    for name in names:
        if name not in frame:
            raise ConfigError(f"no column {name!r}{nearest(name, frame.columns)}")


def in_order(frame: Any, sort: str) -> Any:
    """Mixed columns as text: an order of some kind is better than none."""
    name, up = sort.lstrip("-"), not sort.startswith("-")
    try:
        return frame.sort_values(name, ascending=up, kind="stable")
    except TypeError:
        return frame.sort_values(name, ascending=up, kind="stable", key=lambda c: c.astype(str))


def one_kind(frame: Any) -> Any:
    """Parquet has no column that holds numbers and text: such a one is written as text."""
    objects = [c for c in frame if frame[c].dtype == object]
    mixed = [c for c in objects if len(set(map(type, frame[c].dropna()))) > 1]
    return frame.assign(**{c: frame[c].map(str, na_action="ignore") for c in mixed})


def files(path: Path) -> Any:
    """The store at `path`; None where it is a table."""
    from precisionlaws.store import Store

    return Store(path) if path.is_dir() else None


def bytes_(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def words(run: dict[str, Any]) -> str:
    lines = [run["run_id"]]
    for part in ("result", "settings", "facts"):
        lines += [part] * bool(run[part])
        lines += [f"  {k:28} {value(v)}" for k, v in run[part].items()]
    for part in ("points", "curve"):
        if run.get(part):
            lines += [part, table(run[part])]
    return "\n".join(lines)


def difference_words(found: dict[str, Any]) -> str:
    a, b = found["runs"]
    loss, lines = found["loss"], [f"a  {a}", f"b  {b}"]
    for part in ("settings", "facts"):
        lines += [part] * bool(found[part])
        lines += [f"  {k:28} {value(x)} -> {value(y)}" for k, (x, y) in found[part].items()]
    one, two = loss["values"]
    if loss["difference"] is None:
        lines.append(f"loss  {one:.6g} and {two:.6g}: of different objectives, not comparable")
        return "\n".join(lines)
    lines.append(f"loss  {one:.6g} -> {two:.6g}: {loss['difference']:+.6f} nats per token")
    if loss["se"] is not None:
        lines.append(f"      standard error {loss['se']:.6f}, paired by held-out document")
    elif loss["se_at_most"] == loss["se_at_most"]:
        lines.append(
            f"      standard error at most {loss['se_at_most']:.6f}; less where both saw the same held-out text"
        )
    curve = found["curve"]
    if curve:
        lines.append(f"curve  {curve['steps']:,} common steps; mean difference over the last tenth {curve['last_tenth']:+.6f}")  # fmt: skip
        lines.append(table(curve["shown"]))
    return "\n".join(lines)


def value(v: Any) -> str:
    return "-" if v is None else f"{v:.10g}" if isinstance(v, float) else str(v)


def table(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    text = pd.DataFrame(rows).to_string(index=False)
    return "\n".join(f"  {line}" for line in text.splitlines())
