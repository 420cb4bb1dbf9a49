"""Packs through the store: the same files in whatever company runs were trained, interrupted or not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, RunConfig, compose, run_id, trunk_id
from precisionlaws.store import Store
from precisionlaws.training import loop, unit
from precisionlaws.training.loop import Interrupted
from precisionlaws.training.pack_unit import train_trunks
from precisionlaws.training.state import read
from precisionlaws.training.train import train
from precisionlaws.training.unit import Watch

ONE: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]
FOUR = replace(ONE, pack=4)
TOKENS = ("2560", "5120")
EACH = {
    "w3": ["quant=qat", "quant.weights.bits=3"],
    "low": ["quant=low_precision", "seed=1"],
    "plain": ["optim.lr=0.02"],
    "bad": ["seed=1", "optim.lr=1e30", "optim.clip=null"],
}

Trunks = dict[str, list[RunConfig]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "FLUSH", 4)
    monkeypatch.setattr(loop, "LOOK_SECONDS", 100.0)


@pytest.fixture
def trunks(tiny: list[str]) -> Trunks:
    return {k: [compose([*tiny, *o, f"tokens={t}"]) for t in TOKENS] for k, o in EACH.items()}


def files(store: Store, run: RunConfig) -> tuple[dict, str, dict]:
    """Result without its time, metrics, and weights as bytes if it has any."""
    folder = store.run(run_id(run))
    row = json.loads((folder / "result.json").read_text())
    del row["seconds"]
    path = folder / "checkpoint.safetensors"
    weights = read(path)[0] if path.exists() else {}
    return (
        row,
        (folder / "metrics.jsonl").read_text(),
        {k: v.numpy().tobytes() for k, v in weights.items()},
    )


def same(one: Store, other: Store, trunks: Trunks) -> None:
    for runs in trunks.values():
        for run in runs:
            assert files(one, run) == files(other, run)


def test_a_pack_fills_the_store_as_its_members_alone_would(trunks: Trunks, tmp_path: Path) -> None:
    packed, alone = Store(tmp_path / "packed"), Store(tmp_path / "alone")
    train_trunks(list(trunks.values()), packed, FOUR)
    train_trunks(list(trunks.values()), alone, ONE)
    for name, runs in trunks.items():
        for run in runs:
            (row, log, weights), (expected, log_alone, weights_alone) = (
                files(s, run) for s in (packed, alone)
            )
            assert (row["exec.pack"], expected["exec.pack"]) == (4, 1)
            assert row["status"] == ("diverged" if name == "bad" else "finished")
            assert row.keys() == expected.keys()
            assert weights.keys() == weights_alone.keys()
            assert len(log.splitlines()) == len(log_alone.splitlines())
            if name == "plain":
                assert row["loss"] == pytest.approx(expected["loss"], abs=1e-4)
            assert not (packed.run(run_id(run)) / "resume.safetensors").exists()


@pytest.mark.slow
def test_one_run_in_a_pack_of_its_own_has_the_bits_of_a_full_one(
    trunks: Trunks, tmp_path: Path
) -> None:
    full, single = Store(tmp_path / "full"), Store(tmp_path / "single")
    train_trunks(list(trunks.values()), full, FOUR)
    for runs in trunks.values():
        train(runs[1], tmp_path / "single", FOUR)
        assert files(single, runs[1]) == files(full, runs[1])


@pytest.mark.parametrize("after", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_interrupted_and_resumed_in_other_company_is_the_same(
    trunks: Trunks, tmp_path: Path, after: int
) -> None:
    """In the trunk or a decay; again in other lanes; then to the end in pairs."""
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_trunks(list(trunks.values()), smooth, FOUR)
    t = list(trunks.values())
    for group, last in ((t, after), (t[::-1], 1)):
        looks = iter(range(1, 1000))
        watch = Watch(stop=lambda n=looks, last=last: next(n) >= last)
        with pytest.raises(Interrupted):
            train_trunks(group, rough, FOUR, watch)
    for pair in ([t[2], t[0]], [t[1], t[3]]):
        train_trunks(pair, rough, FOUR)
    same(smooth, rough, trunks)


def test_a_first_member_that_has_finished_changes_no_bit_of_the_others(
    trunks: Trunks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on in the middle of a decay, where it is not: they keep their own count of steps."""
    monkeypatch.setattr(loop, "FLUSH", 2)
    three = [trunks["w3"], trunks["low"][:1], trunks["plain"][:1]]
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_trunks(three, smooth, FOUR)
    looks = iter(range(1, 100))  # the ninth is at step 18 of the decay from 16 to 20
    with pytest.raises(Interrupted):
        train_trunks(three, rough, FOUR, Watch(stop=lambda: next(looks) == 9))
    assert len(list(rough.root.glob("runs/*/resume.safetensors"))) == 3
    train_trunks([trunks["w3"][:1]], rough, FOUR)  # in a pack of its own
    train_trunks(three, rough, FOUR)
    same(smooth, rough, {str(i): runs for i, runs in enumerate(three)})


def test_killed_between_checkpoints_repeats_the_steps(
    trunks: Trunks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `kill -9`, in a trunk and in a decay: no farewell checkpoints, only the periodic ones."""
    monkeypatch.setattr(unit, "SAVE_SECONDS", 0.0)
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_trunks(list(trunks.values()), smooth, FOUR)
    for last in (12, 20, 36):

        def die(name: str, step: int, steps: int, loss: float, last: int = last) -> None:
            if step >= last:
                raise SystemError

        with pytest.raises(SystemError):
            train_trunks(list(trunks.values()), rough, FOUR, Watch(progress=die))
    seen: list[int] = []
    original = loop.Batches.at
    monkeypatch.setattr(
        loop.Batches, "at", lambda self, step: seen.append(step) or original(self, step)
    )
    train_trunks(list(trunks.values()), rough, FOUR)
    assert min(seen) >= 28
    same(smooth, rough, trunks)


def test_members_of_different_lengths(trunks: Trunks, tmp_path: Path) -> None:
    full, part = Store(tmp_path / "full"), Store(tmp_path / "part")
    train_trunks(list(trunks.values()), full, FOUR)
    short, long = [trunks["w3"][0]], [trunks["low"][1]]
    train_trunks([short, long, trunks["plain"]], part, FOUR)
    for run in (*short, *long, *trunks["plain"]):
        assert files(part, run) == files(full, run)
    steps = {p.name for p in part.trunk(trunk_id(short[0])).iterdir()}
    assert steps == {"step-16.safetensors"}


def test_members_whose_runs_of_one_D_decay_over_different_shares(
    tiny: list[str], tmp_path: Path
) -> None:
    decays = {"w3": (0, 0.2, 0.5), "low": (0.2, 0.5), "plain": (0.5, 0)}
    made = {
        name: [compose([*tiny, *EACH[name], f"tokens={t}", f"lr_schedule.decay={d}"]) for t in TOKENS for d in own]
        for name, own in decays.items()
    }  # fmt: skip
    packed, alone = Store(tmp_path / "packed"), Store(tmp_path / "alone")
    train_trunks(list(made.values()), packed, FOUR)
    for run in (run for runs in made.values() for run in runs):
        fresh = Store(alone.root / run_id(run))
        train_trunks([[run]], fresh, FOUR)
        assert files(packed, run) == files(fresh, run)
    losses = {files(packed, run)[0]["loss"] for runs in made.values() for run in runs}
    assert len(losses) == sum(map(len, made.values()))


def test_under_a_cosine_and_with_micro_batches(tiny: list[str], tmp_path: Path) -> None:
    more = ["lr_schedule=cosine", "lr_schedule.warmup=3", "micro_batch=2"]
    runs = [[compose([*tiny, *o, *more])] for o in EACH.values()]
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    train_trunks(runs, one, FOUR)
    train_trunks(runs[:2], other, FOUR)
    train_trunks(runs[2:], other, FOUR)
    same(one, other, {str(i): r for i, r in enumerate(runs)})


def test_what_cannot_be_packed_is_refused(trunks: Trunks, tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exec.pack=2 has no room for 4 trunks"):
        train_trunks(list(trunks.values()), Store(tmp_path), replace(ONE, pack=2))
    odd = compose([*tiny, "batch_tokens=96"])
    with pytest.raises(ConfigError, match="exec.pack must be 1 here, got 4: 96 tokens at once"):
        train_trunks([[odd]], Store(tmp_path), FOUR)


def test_a_damaged_checkpoint_of_one_member_stops_no_other(trunks: Trunks, tmp_path: Path) -> None:
    three = {k: v for k, v in trunks.items() if k != "bad"}
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_trunks(list(three.values()), smooth, FOUR)
    train_trunks([runs[:1] for runs in three.values()], rough, FOUR)
    broken = next(rough.trunk(trunk_id(trunks["low"][0])).iterdir())
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=f"checkpoint {broken} cannot be read"):
        train_trunks(list(three.values()), rough, FOUR)
    same(smooth, rough, {k: three[k] for k in ("w3", "plain")})
    broken.unlink()
    train_trunks([trunks["low"]], rough, FOUR)
    same(smooth, rough, three)
