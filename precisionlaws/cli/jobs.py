"""precisionlaws jobs: work in progress."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Overrides, StoreOption, print_json

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Watch work in progress; cancel and write jobs of Slurm.",
)
StoreArgument = Annotated[Path, typer.Argument(help="The store that is being filled.")]


@app.command(no_args_is_help=True)
def watch(
    store: StoreArgument,
    once: Annotated[bool, typer.Option("--once", help="Look once; do not wait.")] = False,
    study: Annotated[str | None, typer.Option(help="Only this study.", show_default=False)] = None,
    every: Annotated[float, typer.Option(help="Seconds between looks.")] = 2.0,
    json: Json = False,
) -> None:
    """How far the work is, from the store alone: any launcher, any machine. Ends when nothing is left.

    Redraws a table on a terminal and writes plain lines elsewhere; exit 1 when runs failed.
    """
    if not every > 0:
        raise ValueError(f"--every must be above 0 seconds, got {every:g}")
    from precisionlaws.store import opened
    from precisionlaws.sweep.slurm.manage import Queue
    from precisionlaws.sweep.watch import Watch

    one, queue = Watch(opened(store), study), Queue(opened(store))
    look = one.look()
    if not (once or json or look.over):
        look = follow(one, look, queue, every)
    show(look, queue, json)
    raise typer.Exit(int(look.failed))


def follow(one: Any, look: Any, queue: Any, every: float) -> Any:
    """The last look."""
    import time

    from precisionlaws.sweep.live import LINE_SECONDS, Screen
    from precisionlaws.sweep.watch import summary, table

    screen, told, last = Screen(sys.stdout), [], -LINE_SECONDS
    try:
        while not look.over:
            if sys.stdout.isatty():
                screen.draw([*table(look), *queue.lines()])
            elif time.monotonic() - last >= LINE_SECONDS:
                now, last = [*map(summary, look.rows), *queue.lines()], time.monotonic()
                print("\n".join(line for line in now if line not in told), flush=True) if now != told else None  # fmt: skip
                told = now
            time.sleep(every)
            look = one.look()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    screen.clear()
    return look


def show(look: Any, queue: Any, json: bool) -> None:
    from dataclasses import asdict

    from precisionlaws.sweep.watch import table

    if json:
        found = {f"{state} {reason}": n for (state, reason), n in queue.look().items()}
        print_json(asdict(look) | {"queue": found})
    else:
        print("\n".join([*table(look), *queue.lines()]))


@app.command(no_args_is_help=True)
def cancel(
    store: StoreArgument,
    study: Annotated[str | None, typer.Option(help="Only this study.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Cancel the Slurm jobs of a store. They save first; `sweep` goes on from there."""
    from precisionlaws.store import opened
    from precisionlaws.sweep.engine import Refused
    from precisionlaws.sweep.slurm.manage import cancel
    from precisionlaws.sweep.slurm.queue import Silent

    try:
        found = cancel(opened(store), study)
    except (Refused, Silent) as error:
        print(f"error: Slurm: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    count = sum(found.values())
    print_json({"cancelled": found}) if json else print(
        f"cancelled {count:,} jobs in {len(found)} arrays of {store}"
    )


@app.command(no_args_is_help=True)
def script(
    name: Annotated[str, typer.Argument(help="A study in sweeps/, or a yaml file.")],
    overrides: Overrides = None,
    store: StoreOption = Path("results"),
    json: Json = False,
) -> None:
    """Write the job scripts of what is missing, for sites that forbid submission from a program.

    Prints the commands that submit them. Once submitted by hand, `sweep` with the same arguments follows them.
    """
    from precisionlaws.store import Store
    from precisionlaws.sweep.points import study
    from precisionlaws.sweep.slurm.manage import write

    files, overrides = Store(store), [*(overrides or [])]
    if not any(o.startswith("launcher=") for o in overrides):
        overrides.append("launcher=slurm")
    made = write(study(name, overrides), files)
    print_json({"scripts": [str(b.folder / "job.sh") for b in made]}) if json else print(
        "\n".join(b.command for b in made) or "nothing is missing"
    )
