"""What a study would cost, before anything is trained."""

from collections.abc import Sequence
from typing import Any

from precisionlaws.costs import MFU, PRICE, duration, gpu_hours
from precisionlaws.run import RunConfig
from precisionlaws.store import Store
from precisionlaws.sweep.memory import as_json, line, memory
from precisionlaws.sweep.points import Study
from precisionlaws.sweep.rates import IDLE, Rates
from precisionlaws.sweep.schedule import Progress, Unit, units

SHOWN_HOURS = 0.1  # below, nobody rents a GPU


def estimate(
    study: Study,
    done: Progress,
    mfu: float = MFU,
    price: float = PRICE,
    known: Rates = IDLE,
    store: Store | None = None,
) -> dict[str, Any]:
    """Counts, tokens, FLOPs, time and price of a study and of what is still missing of it.

    tokens: trained, shared trunks counted once. tokens_alone: if every run, a (config, D), were trained by
    itself; tokens_per_point: if every point were, PTQ points too. seconds: estimated wall clock on this
    machine's cores, at the rates that are known of it. to_do: what is still missing, from the trunks that
    `store` has. gpu: H100-hours at this MFU, training and
    evaluation, and their price at `price` per hour.
    Raises: ValueError for an mfu or a price that is none.
    """
    if not price >= 0:
        raise ValueError(f"price must be at least 0 per GPU-hour, got {price:g}")
    whole, left_over = units(study.points, study.exec), done.missing(study.points)
    rest = units(left_over, study.exec, study.points, store)
    workers = study.launcher.count(study.exec.threads)  # type: ignore[attr-defined]
    workers = workers if study.launcher.HERE else min(workers, len(whole))
    hours, left = (gpu_hours(sum(map(all_flops, part)), mfu) for part in (whole, rest))
    return {
        "study": study.name,
        "runs": sum(len(u.runs) for u in whole),
        "points": len(study.points),
        "units": len(whole),
        "tokens": sum(u.tokens for u in whole),
        "tokens_alone": sum(u.tokens_alone for u in whole),
        "tokens_per_point": sum(p.run.D for p in study.points),
        "flops": sum(u.flops for u in whole),
        "workers": workers,
        "seconds": wall([known.seconds(u) for u in whole], workers),
        "calibration": {"runs": known.runs, "factor": known.overall},
        "memory": as_json(memory(whole, study.exec, workers)) if study.launcher.HERE else None,
        "gpu": {
            "device": "H100", "mfu": mfu, "price_per_hour": price, "hours": hours, "price": hours * price,
        },
        "to_do": {
            "points": len(left_over),
            "tokens": sum(u.tokens for u in rest),
            "seconds": wall([known.seconds(u) for u in rest], workers),
            "gpu_hours": left,
            "price": left * price,
        },
        "data": repeats([r for u in whole for r in u.runs]),
        "failed": sorted(done.failed),
        "elsewhere": len(done.elsewhere),
        "lost": len(done.lost),
        "fit": list(study.fit),
        "questions": list(study.questions),
    }  # fmt: skip


def all_flops(unit: Unit) -> float:
    """Training, and a forward pass over the held-out tokens for every evaluation."""
    forward = unit.token_flops / 3
    return unit.flops + forward * unit.evaluations * unit.runs[0].data.eval_tokens


def wall(seconds: list[float], workers: int) -> float:
    """Longest first onto the least busy worker."""
    load = [0.0] * workers
    for s in seconds:
        load[load.index(min(load))] += s
    return max(load)


def repeats(runs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Per source: its training tokens, and how often the longest run goes through them."""
    longest: dict[Any, RunConfig] = {}
    for run in runs:
        longest[run.data] = max(longest.get(run.data, run), run, key=lambda r: r.D)
    found = []
    for data, run in longest.items():
        tokens = (len(data.corpus().train) - 1) // data.context * data.context
        found.append({"data": data.SHORT, "tokens": tokens, "epochs": run.D / tokens})
    return found


def table(n: dict[str, Any]) -> str:
    lines = [
        f"{n['study']}: {n['runs']:,} runs, {n['points']:,} points in {n['units']:,} units",
        f"  tokens  {millions(n['tokens'])} trained{fewer(n)}",
        f"  FLOPs   {n['flops']:.2e}",
        f"  time    about {duration(n['seconds'])} on {n['workers']} CPU worker{'s' * (n['workers'] > 1)}, {rests_on(n['calibration'])}",
        *([line(n["memory"], n.get("disk_free"))] if n["memory"] else []),
        *gpu(n["gpu"]),
        to_do(n),
        *(
            f"  data    {d['data']}: the longest run goes {d['epochs']:,.1f} times through its "
            f"{millions(d['tokens'])} tokens, so sequences repeat; data=text data.path=... brings more"
            for d in n["data"]
            if d["epochs"] > 1
        ),
    ]
    if n["elsewhere"]:
        lines.append(f"  done    {n['elsewhere']:,} points elsewhere (--done)")
    if n["lost"]:
        lines.append(f"  cannot  {lost(n['lost'])}")
    if n["failed"]:
        lines.append(f"  failed before: {len(n['failed'])} runs (see --retry failed)")
    if n["fit"]:
        lines.append(f"  fits    {', '.join(n['fit'])}")
    lines += [f"  asks    {q}" for q in n["questions"]]
    if n["fit"] and "expected" not in n:
        lines.append(
            "  tells   --prior FIT.json, or a law such as neff_kumar, foresees the intervals"
        )
    return "\n".join(lines)


def lost(count: int) -> str:
    return (
        f"{count:,} PTQ points cannot be made here: their runs were trained elsewhere and have no "
        "checkpoint in this store (without --done they are trained again)"
    )


def fewer(n: dict[str, Any]) -> str:
    """Against training every (config, D) by itself, and every point by itself."""
    shared, points = (n[k] / n["tokens"] for k in ("tokens_alone", "tokens_per_point"))
    said = []
    if shared > 1:
        said.append(f"{shared:.2f}x fewer than one WSD run per (config, D), as trunks are shared")
    if points > shared:
        said.append(f"{points:.2f}x fewer than one training per point")
    return f"; {'; '.join(said)}" if said else ""


def rests_on(calibration: dict[str, Any]) -> str:
    """What a time rests on."""
    k = calibration["runs"]
    if not k:
        return "for idle cores (no finished run to calibrate on)"
    return f"calibrated on {k} run{'s' * (k > 1)} ({calibration['factor']:.2g} times that of idle cores)"


def gpu(n: dict[str, Any]) -> list[str]:
    if n["hours"] < SHOWN_HOURS:
        return []
    return [
        f"  GPU     about {three(n['hours'])} H100-hours at {n['mfu']:.0%} MFU, "
        f"{three(n['price'])} at {n['price_per_hour']:.2f} per hour"
    ]


def to_do(n: dict[str, Any]) -> str:
    left = n["to_do"]
    if not left["points"]:
        return "  to do   nothing"
    tokens = f"{millions(left['tokens'])} tokens, " if left["tokens"] else ""  # PTQ trains nothing
    return f"  to do   {left['points']:,} points, {tokens}about {duration(left['seconds'])}{to_rent(n)}"


def to_rent(n: dict[str, Any]) -> str:
    """What is left in H100-hours, where that is not the whole."""
    left = n["to_do"]["gpu_hours"]
    return f" or {three(left)} H100-hours" if SHOWN_HOURS <= left < n["gpu"]["hours"] else ""


def millions(tokens: float) -> str:
    return f"{tokens / 1e9:,.1f} G" if tokens >= 1e10 else f"{tokens / 1e6:,.1f} M"


def three(value: float) -> str:
    """Three digits, the rest zeros: 12,300."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"
