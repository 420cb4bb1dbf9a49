"""What a study would cost, before anything is trained."""

from typing import Any

from precisionlaws.costs import duration
from precisionlaws.sweep.points import Study
from precisionlaws.sweep.schedule import Progress, units


def estimate(study: Study, done: Progress) -> dict[str, Any]:
    """Counts, tokens, FLOPs and time of a study and of what is still missing of it.

    tokens: trained, shared trunks counted once. tokens_alone: if every run were trained by itself.
    seconds: estimated wall clock on this machine's cores.
    """
    whole, rest = units(study.points), units(done.missing(study.points))
    workers = study.launcher.count(study.exec.threads)  # type: ignore[attr-defined]
    return {
        "study": study.name,
        "runs": sum(len(u.runs) for u in whole),
        "points": len(study.points),
        "units": len(whole),
        "tokens": sum(u.tokens for u in whole),
        "tokens_alone": sum(u.tokens_alone for u in whole),
        "flops": sum(u.flops for u in whole),
        "workers": workers,
        "seconds": wall([u.seconds for u in whole], workers),
        "to_do": {
            "points": len(done.missing(study.points)),
            "tokens": sum(u.tokens for u in rest),
            "seconds": wall([u.seconds for u in rest], workers),
        },
        "failed": sorted(done.failed),
        "fit": list(study.fit),
        "questions": list(study.questions),
    }


def wall(seconds: list[float], workers: int) -> float:
    """Longest first onto the least busy worker."""
    load = [0.0] * workers
    for s in seconds:
        load[load.index(min(load))] += s
    return max(load)


def table(n: dict[str, Any]) -> str:
    saved = n["tokens_alone"] / n["tokens"]
    lines = [
        f"{n['study']}: {n['runs']} runs, {n['points']} points in {n['units']} units",
        f"  tokens  {n['tokens'] / 1e6:,.1f} M trained ({saved:.2f}x fewer than one training per run: trunks are shared)",
        f"  FLOPs   {n['flops']:.2e}",
        f"  time    about {duration(n['seconds'])} on {n['workers']} CPU worker(s)",
        f"  to do   {n['to_do']['points']} points, {n['to_do']['tokens'] / 1e6:,.1f} M tokens, "
        f"about {duration(n['to_do']['seconds'])}",
    ]
    if n["failed"]:
        lines.append(f"  failed before: {len(n['failed'])} runs (see --retry failed)")
    if n["fit"]:
        lines.append(f"  fits    {', '.join(n['fit'])}")
    lines += [f"  asks    {q}" for q in n["questions"]]
    return "\n".join(lines)
