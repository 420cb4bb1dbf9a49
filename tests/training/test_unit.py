"""Training is bit-identical alone or in a trunk, interrupted or not."""

import json
from pathlib import Path

import pytest
import torch

from precisionlaws.claims import acquire
from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, RunConfig, compose, run_id, trunk_id
from precisionlaws.store import Store
from precisionlaws.training import loop, unit
from precisionlaws.training.loop import Interrupted
from precisionlaws.training.state import fresh, read
from precisionlaws.training.train import train
from precisionlaws.training.unit import Watch, train_runs

EXEC: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "FLUSH", 4)


def everything(store: Store, run: RunConfig) -> tuple[dict, list, dict]:
    """Result without its time, metrics, and weights as bytes."""
    folder = store.run(run_id(run))
    row = json.loads((folder / "result.json").read_text())
    del row["seconds"]
    weights, _ = read(folder / "checkpoint.safetensors")
    return (
        row,
        (folder / "metrics.jsonl").read_text().splitlines(),
        {k: v.numpy().tobytes() for k, v in weights.items()},
    )


@pytest.mark.parametrize("quant", [[], ["quant=low_precision", "quant.weights.bits=3"]])
def test_a_branch_equals_the_run_trained_alone(
    tiny: list[str], quant: list[str], tmp_path: Path
) -> None:
    runs = [compose([*tiny, *quant, f"tokens={t}"]) for t in (1280, 2560, 5120)]
    together = Store(tmp_path / "together")
    train_runs(runs, together, EXEC)
    for run in runs:
        alone = Store(tmp_path / f"alone{run.D}")
        train_runs([run], alone, EXEC)
        assert everything(alone, run) == everything(together, run)


DECAYS = [
    [f"tokens={tokens}", f"lr_schedule.decay={decay}", f"lr_schedule.shape={shape}"]
    for tokens in (1280, 2560)
    for decay, shape in ((0, "linear"), (0.2, "linear"), (0.2, "1-sqrt"), (0.5, "linear"))
]


def test_decays_over_different_shares_of_one_D_each_equal_the_run_trained_alone(
    tiny: list[str], tmp_path: Path
) -> None:
    """A branch point may lie before one of a smaller D, or of the same D with a shorter decay."""
    runs = [compose([*tiny, *own]) for own in DECAYS]
    assert len({trunk_id(run) for run in runs}) == 1
    together = Store(tmp_path / "together")
    train_runs(runs, together, EXEC)
    for run in runs:
        alone = Store(tmp_path / run_id(run))
        train_runs([run], alone, EXEC)
        assert everything(alone, run) == everything(together, run)
    assert len({everything(together, run)[0]["loss"] for run in runs}) == len(runs)


def test_a_trunk_beyond_the_branch_point_is_an_error(tiny: list[str], tmp_path: Path) -> None:
    late, early = (compose([*tiny, f"tokens={t}"]) for t in (2560, 1280))
    state = fresh(late, "cpu", False)
    trainer = unit.Trainer(Store(tmp_path), EXEC, Watch())
    trainer.trunk(state, late)
    with pytest.raises(RuntimeError, match="branches at step 8, its trunk is at 16"):
        trainer.trunk(state, early)


def test_the_trunk_is_trained_once(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(loop.Batches, "at", counted(loop.Batches.at, seen))
    runs = [compose([*tiny, f"tokens={t}"]) for t in (1280, 2560, 5120)]
    train_runs(runs, Store(tmp_path), EXEC)
    assert len(seen) == 32 + 2 + 4 + 8  # steps of the longest trunk and of three decays


def test_a_longer_run_goes_on_from_the_stored_trunk(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "a")
    train_runs([compose([*tiny, "tokens=2560"])], store, EXEC)
    seen: list[int] = []
    monkeypatch.setattr(loop.Batches, "at", counted(loop.Batches.at, seen))
    longer = compose([*tiny, "tokens=5120"])
    train_runs([longer], store, EXEC)
    assert min(seen) == 16  # where the first run branched off
    other = Store(tmp_path / "b")
    train_runs([longer], other, EXEC)
    assert everything(store, longer) == everything(other, longer)


def counted(original, seen: list[int]):
    def at(self, step: int):
        seen.append(step)
        return original(self, step)

    return at


WSD = ["quant=qat"]
COSINE = ["lr_schedule=cosine", "lr_schedule.warmup=3", "quant=qat"]
GPT = ["model=gpt", "quant=low_precision"]
MICRO = ["quant=low_precision", "micro_batch=2"]


@pytest.mark.parametrize(
    ("what", "after"),
    [*((WSD, n) for n in (1, 2, 3, 4, 5, 6)), (COSINE, 1), (COSINE, 3), (GPT, 2), (MICRO, 2)],
)
def test_interrupted_anywhere_and_resumed_is_the_same(
    tiny: list[str], tmp_path: Path, what: list[str], after: int
) -> None:
    """Stops at the `after`-th look, then ever later: in the trunk, in decays, in evaluations."""
    runs = [compose([*tiny, *what, f"tokens={t}"]) for t in (2560, 5120)]
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_runs(runs, smooth, EXEC)
    stops = 0
    while True:
        looks, most = iter(range(1, 1000)), after + stops  # an evaluation starts over
        try:
            train_runs(runs, rough, EXEC, Watch(stop=lambda k=looks, most=most: next(k) >= most))
            break
        except Interrupted:
            stops += 1
    assert stops >= 1
    for run in runs:
        assert everything(rough, run) == everything(smooth, run)
        assert not (rough.run(run_id(run)) / "resume.safetensors").exists()


def test_killed_between_checkpoints_repeats_the_steps(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `kill -9`: no farewell checkpoint, only the periodic ones."""
    monkeypatch.setattr(unit, "SAVE_SECONDS", 0.0)
    run = compose([*tiny, "tokens=5120"])
    smooth, rough = Store(tmp_path / "smooth"), Store(tmp_path / "rough")
    train_runs([run], smooth, EXEC)

    def die(name: str, step: int, *_: float) -> None:
        if step >= 20:
            raise SystemError

    with pytest.raises(SystemError):
        train_runs([run], rough, EXEC, Watch(progress=die))
    assert list(rough.trunk(trunk_id(run)).glob("step-16.safetensors"))
    train_runs([run], rough, EXEC)
    assert everything(rough, run) == everything(smooth, run)


def test_all_roles_at_16_bits_is_no_quantization_to_the_bit(
    tiny: list[str], tmp_path: Path
) -> None:
    plain = compose(tiny)
    off = compose(
        [
            *tiny,
            "quant=low_precision",
            *(f"quant.{r}.bits=16" for r in ("weights", "activations", "kv")),
        ]
    )
    assert run_id(plain) == run_id(off)
    train_runs([plain], Store(tmp_path / "a"), EXEC)
    train_runs([off], Store(tmp_path / "b"), EXEC)
    left, right = everything(Store(tmp_path / "a"), plain), everything(Store(tmp_path / "b"), off)
    assert left[1:] == right[1:]
    assert left[0]["loss"] == right[0]["loss"]


def test_divergence_is_a_result(tiny: list[str], tmp_path: Path) -> None:
    runs = [
        compose([*tiny, "optim.lr=1e30", "optim.clip=1e30", f"tokens={t}"]) for t in (2560, 5120)
    ]
    store = Store(tmp_path)
    train_runs(runs, store, EXEC)
    for run in runs:
        row = json.loads(store.result(run_id(run)).read_text())
        assert row["status"] == "diverged"
        assert row["loss"] is None
        assert (store.run(run_id(run)) / "metrics.jsonl").exists()


def test_micro_batches_give_the_same_gradients(tiny: list[str], tmp_path: Path) -> None:
    losses = []
    for extra in ([], ["micro_batch=2"], ["micro_batch=1"]):
        run = compose([*tiny, "dtype=float64", *extra])
        train_runs([run], Store(tmp_path), EXEC)
        losses.append(json.loads(Store(tmp_path).result(run_id(run)).read_text())["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)


def test_train_learns_and_does_nothing_twice(tiny: list[str], tmp_path: Path) -> None:
    config = compose([*tiny, "tokens=20480"])
    first = train(config, tmp_path)
    lines = [json.loads(x) for x in (first.folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == list(range(config.steps))
    assert first.row["loss"] < 2.7 < 5 < lines[0]["loss"]
    stamp = (first.folder / "result.json").stat().st_mtime_ns
    assert train(config, tmp_path).row == first.row
    assert (first.folder / "result.json").stat().st_mtime_ns == stamp
    assert f"{first.row['loss']:.4f} nats per token" in first.summary()


def test_a_damaged_trunk_checkpoint_is_named(tiny: list[str], tmp_path: Path) -> None:
    store, run = Store(tmp_path), compose(tiny)
    train_runs([run], store, EXEC)
    path = next(store.trunk(trunk_id(run)).glob("step-*.safetensors"))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=f"checkpoint {path} cannot be read"):
        train_runs([compose([*tiny, "tokens=5120"])], store, EXEC)


def test_a_checkpoint_of_other_code_or_machine_is_not_gone_on_from(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(unit, "checkpoint_facts", lambda *_: "another")
        train_runs([compose([*tiny, "tokens=2560"])], store, EXEC)
    seen: list[int] = []
    monkeypatch.setattr(loop.Batches, "at", counted(loop.Batches.at, seen))
    train_runs([compose([*tiny, "tokens=5120"])], store, EXEC)
    assert min(seen) == 0


def test_a_late_finisher_replaces_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a lease was lost during a pause: weights and result stay those of one training."""
    store, run = Store(tmp_path), compose(tiny)
    train_runs([run], store, EXEC)
    before = {p: p.read_bytes() for p in store.run(run_id(run)).iterdir()}
    other = {"exec.chip": "another", "exec.device": "cpu"}
    monkeypatch.setattr("precisionlaws.training.result.exec_facts", lambda *_: other)
    state = unit.fresh(run, "cpu")
    unit.publish(run, state, store, EXEC, unit.measure(state.model, run, "cpu"))
    assert {p: p.read_bytes() for p in store.run(run_id(run)).iterdir()} == before


def test_a_trunk_in_work_is_not_trained_twice(tiny: list[str], tmp_path: Path) -> None:
    config = compose(tiny)
    lease = acquire(Store(tmp_path).claim(trunk_id(config)))
    assert lease is not None
    with pytest.raises(ConfigError, match="another process is training"):
        train(config, tmp_path)
    lease.release()
    assert train(config, tmp_path).row["status"] == "finished"


def test_another_config_under_the_same_name_is_an_error(tiny: list[str], tmp_path: Path) -> None:
    store, run = Store(tmp_path), compose(tiny)
    train_runs([run], store, EXEC)
    path = store.run(run_id(run)) / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(ConfigError, match="holds another config than run"):
        train_runs([run], store, EXEC)


def test_a_hostile_stored_config_executes_nothing(tiny: list[str], tmp_path: Path) -> None:
    store, run = Store(tmp_path), compose(tiny)
    train_runs([run], store, EXEC)
    path, proof = store.run(run_id(run)) / "config.yaml", tmp_path / "proof"
    text = path.read_text()
    hostile = [
        text.replace("precisionlaws.models.llama.Llama", "subprocess.Popen"),
        text.replace("seed: 0", f"seed: !!python/object/apply:os.system ['touch {proof}']"),
        text.replace("seed: 0", "seed: ${oc.env:HOME}"),
        "[]",
        "run: 3\nfingerprint: x",
    ]
    for content in hostile:
        assert content != text
        path.write_text(content)
        with pytest.raises(ConfigError, match=str(path)):
            train_runs([run], store, EXEC)
    assert not proof.exists()
