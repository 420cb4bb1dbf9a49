"""What a sweep will cost and tell: the one place where studies meet laws before they are run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from precisionlaws.cli.shared import pairs


@dataclass(frozen=True)
class Foresight:
    """Numbers for --json and lines for people."""

    numbers: dict[str, Any]
    lines: list[str]


def priors(names: Sequence[str], table: Any) -> list[Any]:
    """Fits by file, published constants by the name of a law; without any, the demo's constants."""
    from precisionlaws.cli.plot import read_fit
    from precisionlaws.planning import prior

    return [
        prior.from_fit(read_fit(Path(name)), Path(name).name)
        if name.endswith(".json") or Path(name).is_file()
        else prior.published(name, table)
        for name in names
    ] or [prior.default(table)]


def targets(text: str | None, named: Sequence[str]) -> dict[str, float]:
    """'gamma_D=0.1,eff_w(3)=0.02' → half widths."""
    out = {}
    for name, value in pairs(text, "--target").items():
        try:
            out[name] = float(value)
        except ValueError:
            raise ValueError(f"--target {name} must be a number, got {value!r}") from None
    if out and not named:
        raise ValueError(
            "--target needs --prior: a fit (precisionlaws fit -o FIT.json), or a law with published "
            "constants such as neff_kumar"
        )
    return out


def seeds_override(seeds: int | None, overrides: Sequence[str]) -> list[str]:
    """--seeds N as an override of the axis."""
    if seeds is None:
        return list(overrides)
    if any(o.partition("=")[0] == "seed" for o in overrides):
        raise ValueError("give --seeds or an override of seed=, not both")
    return [*overrides, f"seed={','.join(map(str, range(seeds)))}"]


def foresee(
    plan: Any,
    files: Any,
    done: Any,
    known: Any,
    budget: str | None,
    named: Sequence[str],
    target: str | None,
) -> tuple[Any, Foresight]:
    """The study, trimmed to the budget if there is one, and what it is expected to tell."""
    wanted = targets(target, named)
    if budget is None and not named:
        return plan, Foresight({}, [])
    from precisionlaws.planning.information import Design
    from precisionlaws.sweep.budget import budget_seconds, design

    seconds = None if budget is None else budget_seconds(budget)
    table = design(plan.points)
    believed = priors(named, table)
    before = [Design(p, table) for p in believed]
    for name in wanted:
        if not any(name in (q.name for q in d.quantities) for d in before):
            names = dict.fromkeys(q.name for d in before for q in d.quantities)
            raise ValueError(f"--target: no quantity {name!r} here; there are {', '.join(names)}")
    whole = [{e.name: e for e in d.expected()} for d in before]  # trimming takes `before` apart
    cut = Foresight({}, [])
    if seconds is not None:
        plan, cut = trimmed(plan, files, done, known, budget or "", seconds, named, before)
    if cut.numbers.get("dropped"):
        after = [Design(p, design(plan.points)) for p in believed]
        seen = expectation(after, whole, bool(named), wanted)
    else:
        seen = expectation(before, [{} for _ in before], bool(named), wanted)
    return plan, Foresight({"budget": cut.numbers or None} | seen.numbers, cut.lines + seen.lines)


def trimmed(
    plan: Any, files: Any, done: Any, known: Any, text: str, seconds: float, named: Sequence[str],
    before: Sequence[Any],
) -> tuple[Any, Foresight]:  # fmt: skip
    """As when this sweep was begun, if it was; else trimmed now."""
    from precisionlaws.planning.information import Worth
    from precisionlaws.sweep.budget import as_before, trim, words
    from precisionlaws.sweep.recorded import budget_name, cut_before

    left, workers = {(p.run_id, p.eval_id) for p in done.missing(plan.points)}, plan.launcher.count(plan.exec.threads)  # fmt: skip
    here = done.here(plan.points)
    name = budget_name(seconds, named, here)
    earlier = cut_before(files, plan.name, plan.overrides, name)

    def ready(p: Any) -> bool:
        return (p.run_id, p.eval_id) not in left

    if earlier is None:
        cut = trim(plan.points, ready, seconds, workers, known, Worth(before))
    else:
        gone = {p.run_id for p in here} - {j.run for j in earlier.jobs}
        stay = [p for p in plan.points if p.run_id not in gone]
        cut = as_before(plan.points, stay, ready, workers, known)
    planned = None if earlier is None else str(files.study(earlier.key))
    kept = {p.run_id for p in cut.kept}
    numbers = {
        "seconds": seconds, "before": cut.before, "after": cut.after,
        "dropped": [n for n in dict.fromkeys(p.run_id for p in plan.points) if n not in kept],
        "planned": planned,
    }  # fmt: skip
    return replace(plan, points=cut.kept, budget=name), Foresight(
        numbers, words(cut, text, planned)
    )


def expectation(
    designs: Sequence[Any], before: Sequence[dict[str, Any]], named: bool, wanted: dict[str, float]
) -> Foresight:
    """Expected intervals under each prior; all quantities of one that was named, else the stiff ones."""
    from precisionlaws.planning.information import is_stiff

    numbers, lines, seeds = [], [], {}
    for d, whole in zip(designs, before, strict=True):
        now = {e.name: e for e in d.expected()}
        shown = [n for n in now if named or is_stiff(n)]
        noise = {kind: n.sd for kind, n in d.prior.noise.items()}
        numbers.append({
            "prior": d.prior.name, "law": d.prior.law.full_name, "noise": noise, "left_out": d.left_out,
            "quantities": [
                {"name": n, "value": now[n].value, "low": now[n].low, "high": now[n].high, "half": now[n].half}
                | ({"half_before": whole[n].half} if n in whole else {})
                for n in shown
            ],
        })  # fmt: skip
        lines += [heading(d), *(row(now[n], whole.get(n)) for n in shown)]
        lines += [f"    {n:<15} at its bound in the prior, and held there" for n in d.held if named]
        for name, half in wanted.items():
            if name in now:
                seeds[name] = d.seeds_for(name, half)
                lines.append(needed(now[name], half, seeds[name]))
    return Foresight({"expected": numbers, "seeds_for": seeds}, lines)


def heading(d: Any) -> str:
    family, branch, run = d.prior.noise["loss"].sd
    left = f"; {d.left_out} points left out: it says nothing of them" if d.left_out else ""
    return (
        f"  expected 95% intervals, by {d.prior.name} ({d.prior.law.full_name}; noise of a family {family:.1%}, "
        f"of a D {branch:.1%}, of a run {run:.1%} of the loss){left}:"
    )


def row(e: Any, whole: Any) -> str:
    if e.half == float("inf"):
        return f"    {e.name:<15} not identified by this grid"
    before = f"   (whole grid ± {whole.half:.2g})" if whole is not None else ""
    return f"    {e.name:<15} {e.value:9.4g} ± {e.half:<7.2g}  {e.low:.3g} to {e.high:.3g}{before}"


def needed(e: Any, half: float, seeds: int | None) -> str:
    if e.half == float("inf"):
        return (
            f"  target  {e.name} ± {half:g}: no number of seeds, this grid does not identify it; "
            "it takes other N, D or widths"
        )
    if seeds is None:
        return f"  target  {e.name} ± {half:g}: more seeds than anyone will train"
    return f"  target  {e.name} ± {half:g}: --seeds {seeds}"
