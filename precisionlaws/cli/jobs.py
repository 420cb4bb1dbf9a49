"""precisionlaws jobs: work in progress."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Watch work in progress.")


@app.callback()
def jobs() -> None:
    """A group, although it has one command as yet."""


@app.command(no_args_is_help=True)
def watch(
    store: Annotated[Path, typer.Argument(help="The store that is being filled.")],
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
    from precisionlaws.sweep.watch import Watch

    one = Watch(opened(store), study)
    look = one.look()
    if not (once or json or look.over):
        look = follow(one, look, every)
    show(look, json)
    raise typer.Exit(int(look.failed))


def follow(one: Any, look: Any, every: float) -> Any:
    """The last look."""
    import sys
    import time

    from precisionlaws.sweep.live import LINE_SECONDS, Screen
    from precisionlaws.sweep.watch import summary, table

    screen, told, last = Screen(sys.stdout), [], -LINE_SECONDS
    try:
        while not look.over:
            if sys.stdout.isatty():
                screen.draw(table(look))
            elif time.monotonic() - last >= LINE_SECONDS:
                now, last = [summary(r) for r in look.rows], time.monotonic()
                print("\n".join(line for line in now if line not in told), flush=True) if now != told else None  # fmt: skip
                told = now
            time.sleep(every)
            look = one.look()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    screen.clear()
    return look


def show(look: Any, json: bool) -> None:
    from dataclasses import asdict

    from precisionlaws.sweep.watch import table

    print_json(asdict(look)) if json else print("\n".join(table(look)))
