"""precisionlaws sweep: a study."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from precisionlaws.cli.shared import Json, Overrides, StoreOption, print_json
from precisionlaws.costs import MFU, PRICE

JOBS = "precisionlaws jobs watch|cancel"


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
    budget: Annotated[
        str | None,
        typer.Option(
            help="Leave out what tells least per second: 90s, 30min, 2h, 1d.", show_default=False
        ),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="A fit, or a law with published constants: expected intervals.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Half widths wanted, gamma_D=0.1: how many seeds?", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Seeds 0 to N - 1 instead of the study's.", min=1, show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Run a study, or go on with it: finished runs are never repeated."""
    import signal

    # A scheduler's polite stop is a Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if retry not in (None, "failed"):
        raise ValueError(f"--retry takes 'failed', got {retry!r}")
    if fail_fast and max_failures not in (None, 1):
        raise ValueError(
            f"--fail-fast stops at the first failure, --max-failures {max_failures} later"
        )
    from precisionlaws.cli.foresight import foresee, seeds_override
    from precisionlaws.store import Store
    from precisionlaws.sweep.points import study
    from precisionlaws.sweep.rates import rates
    from precisionlaws.sweep.schedule import elsewhere, progress

    plan, files = study(name, seeds_override(seeds, overrides or [])), Store(store)
    others = None if done is None else elsewhere(done)
    now, known = progress(files, plan.points, others), rates(files, plan.exec)
    plan, seen = foresee(plan, files, now, known, budget, prior or [], target)
    if dry_run:
        from precisionlaws.sweep.dry_run import estimate, table
        from precisionlaws.sweep.memory import free_bytes

        numbers = estimate(plan, now, mfu, price, known, files) | {"disk_free": free_bytes(store)}
        numbers |= seen.numbers | scripts(plan, files, now, known)
        print_json(numbers) if json else print(
            "\n".join([table(numbers), *seen.lines, *shown(numbers)])
        )
        return
    if seen.lines:
        print("\n".join(seen.lines), file=sys.stderr)
    from precisionlaws.sweep.live import Live

    limit = 1 if fail_fast else max_failures
    view = Live(known=known)
    raise typer.Exit(run(plan, files, view, others, done, retry == "failed", limit, json))


def scripts(plan: Any, files: Any, now: Any, known: Any) -> dict[str, dict[str, str]]:
    """The job scripts of a sweep that is executed elsewhere, by path."""
    if plan.launcher.HERE:
        return {}
    from precisionlaws.sweep.slurm.manage import prepared

    batches = prepared(plan, files, now, known)
    return {"scripts": {str(b.folder / "job.sh"): b.script for b in batches}}


def shown(made: dict[str, Any]) -> list[str]:
    return [f"\n# {path}\n{text}" for path, text in made.get("scripts", {}).items()]


def run(
    plan: Any,
    files: Any,
    view: Any,
    others: Any,
    done: Path | None,
    retry: bool,
    max_failures: int | None,
    json: bool,
) -> int:
    from precisionlaws.sweep.engine import Refused, run_study
    from precisionlaws.sweep.schedule import progress
    from precisionlaws.sweep.slurm.queue import Silent

    try:
        outcome = run_study(
            plan, files, view, retry=retry, max_failures=max_failures, elsewhere=others
        )
    except KeyboardInterrupt:
        left = len(progress(files, plan.points, others).missing(plan.points))
        print(
            f"interrupted; {left} of {len(plan.points)} points to go: the same command goes on"
            + (
                "" if plan.launcher.HERE else f". Jobs in the queue stay there: {JOBS} {files.root}"
            ),
            file=sys.stderr,
        )
        return 130
    except (Refused, Silent) as error:
        print(f"error: Slurm: {error}", file=sys.stderr)
        return 1
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
    table = str(done) if done and numbers["elsewhere"] == numbers["points"] else numbers["store"]
    print_json(numbers) if json else print(
        words(numbers, table, len(outcome.skipped), outcome.stopped)
    )
    return 1 if numbers["failed"] or left else 0


def words(numbers: dict[str, Any], table: str, skipped: int, stopped: bool) -> str:
    """table: what there is to fit."""
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
        lines.append(f"next: precisionlaws fit {table} --law {','.join(numbers['fit'])}")
    if stopped:
        lines.append("stopped: as many runs failed as were allowed; the others saved their state")
    if skipped:
        lines.append("runs that failed before are tried again with --retry failed")
    return "\n".join(lines)
