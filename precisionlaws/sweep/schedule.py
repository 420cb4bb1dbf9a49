"""Points -> units of work, and what they will cost.

A unit is what one worker executes in one go: a trunk with its branches and their PTQ points, or several
trunks that are trained as one batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from precisionlaws.config import ConfigError, build, plain
from precisionlaws.costs import cpu_seconds
from precisionlaws.models.count import training_flops
from precisionlaws.ptq.base import Ptq
from precisionlaws.run import Exec, RunConfig, trunk_id
from precisionlaws.store import Store, listed, load, read_json, saved_steps
from precisionlaws.sweep.points import Point
from precisionlaws.training.pack_rules import check_packable, kinds, obstacle, pack_key, together
from precisionlaws.training.pack_rules import pays as pack_that_pays


@dataclass(frozen=True)
class Unit:
    """Runs of one trunk, by growing D, each with the PTQs asked of it; and what is there of it already."""

    name: str  # trunk_id
    runs: tuple[RunConfig, ...]
    ptqs: tuple[tuple[Ptq, ...], ...]
    trained: frozenset[int] = frozenset()  # indices of runs that only lack points
    saved: tuple[int, ...] = ()  # steps of the trunk's checkpoints

    @property
    def pack(self) -> int:
        """The size of batch in which its runs are trained, in runs."""
        return 1

    @property
    def members(self) -> tuple["Unit", ...]:
        """Its trunks, each as a unit."""
        return (self,)

    @cached_property
    def tokens(self) -> int:
        """Tokens to train: the trunk once, from where it stands to the last branch point, and every decay."""
        owed = [r for i, r in enumerate(self.runs) if i not in self.trained]
        branches = [r.lr_schedule.decay_start(r.steps) for r in owed]
        decays = sum(r.steps for r in owed) - sum(branches)
        return (steps_between(branches, self.saved) + decays) * self.runs[0].batch

    @property
    def tokens_alone(self) -> int:
        """Tokens if every run were trained by itself."""
        return sum(r.D for r in self.runs)

    @cached_property
    def token_flops(self) -> float:
        """FLOPs of training one token."""
        run = self.runs[0]
        return training_flops(run.model, run.size, run.data.vocab, run.data.context, 1)

    @property
    def flops(self) -> float:
        return self.token_flops * self.tokens

    @property
    def evaluations(self) -> int:
        """Of what it trains, and of points, with the unquantized weights that they are compared with."""
        return len(self.runs) - len(self.trained) + sum(len(p) + bool(p) for p in self.ptqs)

    @cached_property
    def seconds(self) -> float:
        """Estimated, on one core."""
        training = self.tokens / self.runs[0].batch * self.step_seconds
        return training + self.evaluations * self.eval_seconds

    @property
    def step_seconds(self) -> float:
        """Estimated, of one step on one core."""
        return cpu_seconds(self.token_flops * self.runs[0].batch, 1, 0, self.token_flops)

    @property
    def eval_seconds(self) -> float:
        """Estimated, of one evaluation on one core."""
        return cpu_seconds(0, 0, self.runs[0].data.eval_tokens, self.token_flops)

    def message(self) -> dict[str, Any]:
        """The unit as JSON for a worker."""
        jobs = zip(self.runs, self.ptqs, strict=True)
        return {
            "unit": self.name,
            "trunks": [m.name for m in self.members],
            "pack": self.pack,
            "jobs": [{"run": plain(r), "ptqs": [plain(p) for p in ps]} for r, ps in jobs],
        }


def steps_between(branches: Iterable[int], saved: Sequence[int]) -> int:
    """Steps of a trunk that must be trained to reach every branch point from the checkpoints there are."""
    at = steps = 0
    for branch in sorted(branches):
        at = max((s for s in saved if at < s <= branch), default=at)
        steps, at = steps + branch - at, branch
    return steps


def unit_of(message: Mapping[str, Any]) -> Unit:
    """`Unit.message`, back. Raises: ConfigError."""
    jobs: list[tuple[RunConfig, tuple[Ptq, ...]]] = [
        (build(j["run"], RunConfig), tuple(build(p, Ptq) for p in j["ptqs"]))  # type: ignore[misc]
        for j in message["jobs"]
    ]
    trunks: dict[str, list[tuple[RunConfig, tuple[Ptq, ...]]]] = {}
    for run, ptqs in jobs:
        trunks.setdefault(trunk_id(run), []).append((run, ptqs))
    made = [Unit(n, *map(tuple, zip(*its, strict=True))) for n, its in trunks.items()]  # type: ignore[arg-type]
    if message["pack"] == 1:
        return made[0]
    return replace(joined(made, message["pack"]), name=message["unit"])


@dataclass(frozen=True, kw_only=True)
class PackUnit(Unit):
    """Trunks that are trained as one batch of `pack`; lanes that are left over repeat a member."""

    trunks: tuple[Unit, ...]
    size: int

    @property
    def pack(self) -> int:
        return self.size

    @property
    def members(self) -> tuple[Unit, ...]:
        return self.trunks

    @cached_property
    def tokens(self) -> int:
        return sum(t.tokens for t in self.trunks)

    @cached_property
    def seconds(self) -> float:
        """Less than one after the other by what launching the steps takes."""
        steps = self.tokens / self.runs[0].batch * (1 - 1 / len(self.trunks))
        return sum(t.seconds for t in self.trunks) - cpu_seconds(0, steps, 0, 0)


def units(
    points: Iterable[Point],
    exec: Exec | None = None,
    study: Iterable[Point] = (),
    store: Store | None = None,
) -> list[Unit]:
    """Longest first: with few workers that leaves the least idle time at the end.

    With `store`, from the trunks that it has. With `exec`, trunks are packed as it says, and as the whole `study` makes it pay: a run must not
    get into another size of pack because others are done. Raises: ConfigError for `exec.pack` above 1
    where runs cannot be packed.
    """
    trunks = trunks_of(points)
    if store is not None:
        there = listed(store.root / "trunks")
        trunks = [extending(t, store) if t.name in there else t for t in trunks]
    if exec is not None and (exec.pack or any(pays(t.runs[0], exec) > 1 for t in trunks)):
        whole = trunks_of(study) or trunks
        trunks = packed(trunks, sizes(whole, exec))
    return sorted(trunks, key=lambda u: (-u.seconds, u.name))


def extending(trunk: Unit, store: Store) -> Unit:
    return replace(trunk, saved=tuple(sorted(saved_steps(store.trunk(trunk.name)))))


def trunks_of(points: Iterable[Point]) -> list[Unit]:
    """Runs of which only PTQ points are asked are trained already."""
    runs: dict[str, RunConfig] = {}
    ptqs: dict[str, list[Ptq]] = {}
    owed = set()
    for point in points:
        runs.setdefault(point.run_id, point.run)
        if point.eval_id == "final":
            owed.add(point.run_id)
        else:
            ptqs.setdefault(point.run_id, []).append(point.ptq)
    trunks: dict[str, list[str]] = {}
    for name, run in runs.items():
        trunks.setdefault(trunk_id(run), []).append(name)
    made = []
    for trunk, names in trunks.items():
        ordered = sorted(names, key=lambda n: runs[n].steps)
        asked = (tuple(ptqs.get(n, ())) for n in ordered)
        trained = frozenset(i for i, n in enumerate(ordered) if n not in owed)
        made.append(Unit(trunk, tuple(runs[n] for n in ordered), tuple(asked), trained))
    return made


def sizes(trunks: Iterable[Unit], exec: Exec) -> dict[str, int]:
    """Key of the runs that can share a pack -> its size: what was asked for, or what pays.

    What pays is divided evenly: 9 trunks in packs of at most 8 are packs of 5.
    """
    groups: dict[str, list[RunConfig]] = {}
    for trunk in trunks:
        groups.setdefault(group_of(trunk), []).append(trunk.runs[0])
    return {key: exec.pack or even(len(runs), pays(runs[0], exec)) for key, runs in groups.items()}


def group_of(trunk: Unit) -> str:
    """What cannot be packed is not counted among what can."""
    return ("alone " if obstacle(trunk.runs[0]) else "") + pack_key(trunk.runs[0])


def even(count: int, most: int) -> int:
    return -(-count // -(-count // most))


def pays(run: RunConfig, exec: Exec) -> int:
    most = 1 if exec.device == "cuda" else pack_that_pays(run, "cpu")
    if most > 1 and exec.device == "auto":
        from precisionlaws.training.facts import device_of  # torch, only where it may matter

        return pack_that_pays(run, device_of("auto"))
    return most


def packed(trunks: Iterable[Unit], sizes: Mapping[str, int]) -> list[Unit]:
    """Packs of trunks; neighbours in a pack are quantized alike as far as possible."""
    groups: dict[str, list[Unit]] = {}
    for trunk in trunks:
        groups.setdefault(group_of(trunk), []).append(trunk)
    made: list[Unit] = []
    for key, group in groups.items():
        if sizes[key] == 1:
            made += group
            continue
        check_packable(group[0].runs[0], sizes[key])
        open_: list[Unit] = []
        kinds_: dict[str, str] = {}
        for trunk in sorted(group, key=lambda t: (sorted(kinds(t.runs[0]).items()), t.name)):
            its = kinds(trunk.runs[0])
            if open_ and (len(open_) == sizes[key] or not together(kinds_, its)):
                made.append(joined(open_, sizes[key]))
                open_, kinds_ = [], {}
            open_.append(trunk)
            kinds_ |= its
        made.append(joined(open_, sizes[key]))
    return made


def joined(trunks: Sequence[Unit], size: int) -> PackUnit:
    first, others = trunks[0].name, len(trunks) - 1
    trained = [i in t.trained for t in trunks for i in range(len(t.runs))]
    return PackUnit(
        name=first + (f" and {others} more" if others else ""),
        runs=tuple(r for t in trunks for r in t.runs),
        ptqs=tuple(p for t in trunks for p in t.ptqs),
        trained=frozenset(i for i, is_trained in enumerate(trained) if is_trained),
        trunks=tuple(trunks),
        size=size,
    )


Key = tuple[str, str]  # run_id, eval_id


@dataclass(frozen=True)
class Elsewhere:
    """Points that another store or a shipped table has."""

    done: frozenset[Key] = frozenset()
    diverged: frozenset[str] = frozenset()  # run ids


@dataclass(frozen=True)
class Progress:
    """Which points of a study a store holds: read once by listing directories."""

    done: frozenset[Key]
    diverged: frozenset[str]  # run ids
    failed: dict[str, str]  # run id -> last error
    elsewhere: frozenset[Key] = frozenset()  # done, but not in this store
    lost: frozenset[Key] = (
        frozenset()
    )  # PTQ of runs done elsewhere: there is no checkpoint to quantize

    def missing(self, points: Sequence[Point]) -> list[Point]:
        """Points still to be computed; a diverged run has no PTQ points."""
        have = self.done | self.lost
        return [
            p for p in points if (p.run_id, p.eval_id) not in have and p.run_id not in self.diverged
        ]

    def here(self, points: Iterable[Point]) -> list[Point]:
        """Points that this store has or will have."""
        theirs = self.elsewhere | self.lost
        ended = {run for run, e in self.elsewhere if e == "final"} & self.diverged
        return [p for p in points if (p.run_id, p.eval_id) not in theirs and p.run_id not in ended]


def progress(store: Store, points: Iterable[Point], elsewhere: Elsewhere | None = None) -> Progress:
    asked: dict[str, set[str]] = {}
    for p in points:
        asked.setdefault(p.run_id, set()).add(p.eval_id)
    done, diverged, failed = set(), set(), {}
    others = elsewhere or Elsewhere()
    for name in asked.keys() & listed(store.root / "runs"):
        files = listed(store.run(name))
        if "result.json" in files:
            done.add((name, "final"))
            if read_json(store.result(name)).get("status") == "diverged":
                diverged.add(name)
        if "points" in files:
            done |= {(name, f.removesuffix(".json")) for f in listed(store.run(name) / "points")}
        missing = {(name, e) for e in asked[name]} - done - others.done
        owed = missing and name not in diverged | others.diverged
        if (
            owed and "error.json" in files
        ):  # an error that a later success has outlived is no failure
            failed[name] = str(read_json(store.run(name) / "error.json").get("error"))
    keys = {(name, e) for name, evals in asked.items() for e in evals}
    theirs = keys & others.done - done
    trained = {name for name, e in theirs if e == "final"}
    lost = {k for k in keys - done - theirs if k[0] in trained - others.diverged}
    return Progress(
        frozenset(done | theirs), frozenset(diverged | (others.diverged & asked.keys())), failed,
        frozenset(theirs), frozenset(lost),
    )  # fmt: skip


def elsewhere(path: str | Path) -> Elsewhere:
    """The points of a frame: `runs export` wrote it, or it is a store.

    Raises: ConfigError when it does not name runs.
    """
    frame = load(path)
    if "run_id" not in frame:
        raise ConfigError(f"{path} has no column 'run_id': --done takes a table of `runs export`")
    keys = frozenset(zip(frame.run_id.astype(str), frame.eval_id.astype(str), strict=True))
    final = frame[(frame.eval_id == "final") & (frame.status == "diverged")]
    return Elsewhere(keys, frozenset(final.run_id.astype(str)))
