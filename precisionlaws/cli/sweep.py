"""precisionlaws sweep: a study."""

from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Overrides, StoreOption, print_json
from precisionlaws.costs import MFU, PRICE


def command(
    name: Annotated[str, typer.Argument(help="A study in sweeps/, or a yaml file.")],
    overrides: Overrides = None,
    store: StoreOption = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it would cost; run nothing.")
    ] = False,
    retry: Annotated[
        str | None, typer.Option("--retry", help="'failed': also runs that failed before.")
    ] = None,
    done: Annotated[
        Path | None,
        typer.Option(
            help="A frame (CSV, parquet, store): its runs and points count as finished.",
            show_default=False,
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast/--keep-going", help="Stop at the first failure.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(help="Stop when so many runs have failed.", min=1)
    ] = None,
    mfu: Annotated[
        float, typer.Option(help="Share of an H100's peak that training reaches; for --dry-run.")
    ] = MFU,
    price: Annotated[
        float, typer.Option(help="Of one GPU-hour, in your currency; for --dry-run.")
    ] = PRICE,
    json: Json = False,
) -> None:
    """Run a study, or go on with it: finished runs are never repeated."""
    if retry not in (None, "failed"):
        raise ValueError(f"--retry takes 'failed', got {retry!r}")
    from precisionlaws.store import Store
    from precisionlaws.sweep.points import study
    from precisionlaws.sweep.schedule import elsewhere, progress

    plan, files = study(name, overrides or []), Store(store)
    others = None if done is None else elsewhere(done)
    if dry_run:
        from precisionlaws.sweep.dry_run import estimate, table

        numbers = estimate(plan, progress(files, plan.points, others), mfu, price)
        print_json(numbers) if json else print(table(numbers))
        return
    limit = 1 if fail_fast else max_failures
    raise typer.Exit(run(plan, files, others, retry == "failed", limit, json))


def run(
    plan: Any, files: Any, others: Any, retry: bool, max_failures: int | None, json: bool
) -> int:
    import signal
    import sys

    from precisionlaws.sweep.engine import run_study
    from precisionlaws.sweep.live import Live
    from precisionlaws.sweep.schedule import progress

    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a scheduler's polite stop is a Ctrl-C
    try:
        outcome = run_study(
            plan, files, Live(), retry=retry, max_failures=max_failures, elsewhere=others
        )
    except KeyboardInterrupt:
        left = len(progress(files, plan.points, others).missing(plan.points))
        print(
            f"interrupted; {left} of {len(plan.points)} points to go: the same command goes on",
            file=sys.stderr,
        )
        return 130
    now = progress(files, plan.points, others)
    left = now.missing(plan.points)
    numbers = {
        "study": plan.name,
        "store": str(files.root),
        "points": len(plan.points),
        "finished": len(plan.points) - len(left) - len(now.diverged) - len(now.lost),
        "elsewhere": len(now.elsewhere),
        "lost": len(now.lost),
        "diverged": sorted(now.diverged),
        "failed": outcome.failed | outcome.skipped,
        "fit": list(plan.fit),
    }
    print_json(numbers) if json else print(words(numbers, len(outcome.skipped), outcome.stopped))
    return 1 if numbers["failed"] or left else 0


def words(numbers: dict[str, Any], skipped: int, stopped: bool) -> str:
    from precisionlaws.sweep.dry_run import lost

    there = f", {numbers['elsewhere']} of them elsewhere (--done)" * bool(numbers["elsewhere"])
    lines = [
        f"{numbers['study']}: {numbers['finished']} of {numbers['points']} points in {numbers['store']}{there}"
    ]
    if numbers["lost"]:
        lines.append(lost(numbers["lost"]))
    if numbers["diverged"]:
        lines.append(f"diverged (recorded, not fitted): {', '.join(numbers['diverged'])}")
    lines += [f"failed: {run}: {error}" for run, error in numbers["failed"].items()]
    if not numbers["failed"] and numbers["fit"]:
        lines.append(f"next: precisionlaws fit {numbers['store']} --law {','.join(numbers['fit'])}")
    if stopped:
        lines.append("stopped: as many runs failed as were allowed; the others saved their state")
    if skipped:
        lines.append("runs that failed before are tried again with --retry failed")
    return "\n".join(lines)
