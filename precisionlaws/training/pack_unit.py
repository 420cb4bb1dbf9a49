"""Trunks that are trained as one pack, and their branches: unit.py for E runs at once.

Every pack of a study has the same size E, because bits depend on it: lanes that nobody needs repeat a
member. They depend on nothing else: not on who else is in the pack, nor on the lane (on a CPU; tested).
So members may be resumed in any company, from the ordinary checkpoints of their own trunks.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from precisionlaws.config import ConfigError
from precisionlaws.run import Exec, RunConfig, parts_of, run_id, trunk_id
from precisionlaws.store import Store, saved_steps
from precisionlaws.training import unit
from precisionlaws.training.evaluate import Losses, measure
from precisionlaws.training.facts import checkpoint_facts, device_of, micro_batch
from precisionlaws.training.loop import Diverged, Interrupted
from precisionlaws.training.pack import Pack, advance
from precisionlaws.training.pack_rules import check_packable
from precisionlaws.training.state import State, read, resume, save
from precisionlaws.training.unit import (
    Watch,
    fresh_for,
    last_loss,
    lookout,
    missing,
    publish,
    stage,
    train_runs,
)


def train_trunks(
    trunks: Sequence[Sequence[RunConfig]], store: Store, exec: Exec, watch: Watch | None = None
) -> None:
    """Train every run of these trunks that the store has not; publish each as it ends.

    With `exec.pack` above 1 they are one pack, else one after the other; so they are, in packs of their
    own, when what the store holds of one of them is at fault, which then fails alone.
    Raises: as train_runs; ConfigError if they cannot be packed.
    """
    size, watch = exec.pack or 1, watch or Watch()
    if size > 1 and len(trunks) > size:
        raise ConfigError(f"exec.pack={size} has no room for {len(trunks)} trunks")
    one: Callable[..., None] = (
        train_runs if size == 1 else (lambda runs, *a: train_pack([runs], *a))
    )
    if size > 1 and len(trunks) > 1:
        with suppress(ConfigError):
            return train_pack(trunks, store, exec, watch)
    errors: list[ConfigError] = []
    for runs in trunks:
        try:
            one(runs, store, exec, watch)
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def train_pack(
    trunks: Sequence[Sequence[RunConfig]], store: Store, exec: Exec, watch: Watch
) -> None:
    todo = [left for runs in trunks if (left := missing(runs, store, exec))]
    if todo:
        Trainer(pack_of(todo, exec), todo, store, exec, watch).train()


def pack_of(todo: Sequence[Sequence[RunConfig]], exec: Exec) -> Pack:
    """Raises: ConfigError if these runs cannot be packed."""
    first, size = [runs[0] for runs in todo], exec.pack or 1
    micro = micro_batch(first[0], exec)
    for run in first:
        check_packable(run, size, micro)
    runs = first + first[-1:] * (size - len(first))
    device = device_of(exec.device)
    return Pack(runs, device, exec.compile, micro, parts_of(first[0], exec, device))


def at_branch(run: RunConfig, store: Store, exec: Exec, watch: Watch) -> State:
    """The state of a run before its decay: from its trunk's checkpoint, or trained again."""
    if (exec.pack or 1) == 1:
        state = fresh_for(run, exec)
        unit.Trainer(store, exec, watch).trunk(state, run)
        return state
    pack = pack_of([[run]], exec)
    Trainer(pack, [[run]], store, exec, watch).trunk({0: [run]}, run)
    return pack.members[0]


@dataclass(frozen=True)
class Trainer:
    """`todo[e]`: the runs of member e in the order of their stages. Lanes beyond repeat the last member, unseen."""

    pack: Pack
    todo: Sequence[Sequence[RunConfig]]
    store: Store
    exec: Exec
    watch: Watch

    def train(self) -> None:
        for now in sorted({stage(r) for runs in self.todo for r in runs}):
            # Of the members that have no run of this stage, those with later ones wait at the branch point.
            alive = {
                e: runs
                for e, runs in enumerate(self.todo)
                if stage(runs[-1]) >= now and e not in self.pack.lost
            }
            due = {e: r for e, runs in alive.items() for r in runs if stage(r) == now}
            if not due:
                continue
            self.trunk(alive, next(iter(due.values())))
            if due := {e: r for e, r in due.items() if e not in self.pack.lost}:
                self.branch(due)

    def trunk(self, alive: Mapping[int, Sequence[RunConfig]], run: RunConfig) -> None:
        """Bring the members `alive` to the branch point of `run`."""
        branch = run.lr_schedule.decay_start(run.steps)
        folders = {e: self.store.trunk(trunk_id(runs[0])) for e, runs in alive.items()}
        self.catch_up(folders, branch)
        last: list[Path] = []  # the newest checkpoints between branch points

        def keep(pack: Pack) -> None:
            for e in folders.keys() - pack.lost:
                self.save(e, checkpoint(folders[e], pack.step))
            while last:
                last.pop().unlink(missing_ok=True)
            if pack.step < branch:
                last.extend(checkpoint(f, pack.step) for f in folders.values())

        if self.pack.step < branch:
            self.phase(set(folders), run, branch, keep)
            keep(self.pack)
        for e in folders.keys() & self.pack.lost:
            for lost in (r for r in alive[e] if stage(r) >= stage(run)):  # they share the trunk
                publish(lost, self.pack.members[e], self.store, self.exec, None)

    def catch_up(self, folders: Mapping[int, Path], branch: int) -> None:
        """Take over the furthest step up to the branch point of which all have a usable checkpoint."""
        common = set.intersection(*(set(saved_steps(f)) for f in folders.values()))
        for step in sorted((n for n in common if self.pack.step < n <= branch), reverse=True):
            if self.resume({e: checkpoint(f, step) for e, f in folders.items()}):
                return

    def branch(self, due: Mapping[int, RunConfig]) -> None:
        """Decay, evaluate and publish these runs; the pack comes back as it was."""
        pack, before = self.pack, (self.pack.step, set(self.pack.lost))
        halfway = {e: self.store.run(run_id(r)) / "resume.safetensors" for e, r in due.items()}
        snapshots = [m.snapshot() for m in pack.members]
        self.resume(halfway)

        def keep(pack: Pack) -> None:
            for e, run in due.items():
                if e not in pack.lost and not self.store.has(run_id(run)):
                    self.save(e, halfway[e])

        run = next(iter(due.values()))
        self.phase(set(due), run, run.steps, keep)
        for e, run in due.items():
            member = pack.members[e]
            try:
                losses = None if e in pack.lost else self.measured(e, run)
            except Interrupted:
                keep(pack)
                raise
            publish(run, member, self.store, self.exec, losses)
            halfway[e].unlink(missing_ok=True)
        for member, snapshot in zip(pack.members, snapshots, strict=True):
            member.restore(*snapshot)
        pack.lost = before[1]
        pack.take_over(before[0], range(len(pack.members)))

    def measured(self, e: int, run: RunConfig) -> Losses:
        model = self.pack.members[e].model
        return measure(model, run, self.pack.device, self.exec, self.watch.stop)

    def resume(self, paths: Mapping[int, Path]) -> bool:
        """Go on from checkpoints of one step; False if one is absent, of other code or another step."""
        found = [read(p)[1] for p in paths.values() if p.exists()]
        steps = {meta.get("step") for meta in found}
        facts = {e: checkpoint_facts(self.exec, self.pack.runs[e]) for e in paths}
        usable = len(found) == len(paths) and len(steps) == 1
        usable = usable and [m.get("facts") for m in found] == list(facts.values())
        if not usable or not all(resume(self.pack.members[e], paths[e], facts[e]) for e in paths):
            return False
        self.pack.take_over(self.pack.members[next(iter(paths))].step, list(paths))
        return True

    def save(self, e: int, path: Path) -> None:
        save(self.pack.members[e], path, checkpoint_facts(self.exec, self.pack.runs[e]))

    def phase(
        self, working: set[int], run: RunConfig, to: int, keep: Callable[[Pack], None]
    ) -> None:
        def factor(step: int) -> float:
            return run.lr_schedule.factor(step, run.steps)

        def loss(pack: Pack) -> float:
            return last_loss(pack.members[min(working)])

        self.watch.progress(run_id(run), self.pack.step, run.steps, loss(self.pack))
        look = lookout(self.watch, run, keep, loss)
        with suppress(Diverged):  # all have; what is left is to say so
            advance(self.pack, working, to, factor, look)


def checkpoint(folder: Path, step: int) -> Path:
    return folder / f"step-{step}.safetensors"
