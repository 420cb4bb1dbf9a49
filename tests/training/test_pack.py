"""A pack is its members: the same numbers up to summation order, the same bits in any company."""

import pytest
import torch
from torch import Tensor

from precisionlaws.models.parts import Own
from precisionlaws.run import Exec, RunConfig, compose, parts_of
from precisionlaws.training import loop
from precisionlaws.training.evaluate import measure
from precisionlaws.training.pack import Pack, advance
from precisionlaws.training.state import fresh

CPU = Exec(device="cpu", threads=1)
W3 = ["quant=qat", "quant.weights.bits=3"]
LOW = ["quant=low_precision", "seed=1", "optim.lr=0.02"]
PLAIN = ["seed=2", "optim.clip=null"]
KV = ["quant.kv.bits=4", "optim.weight_decay=0.3", "optim.clip=0.1"]
BAD = ["seed=1", "optim.lr=1e30", "optim.clip=null"]
SHAPES = {
    "llama": [],
    "grouped queries, tied": ["model.kv_heads=1", "model.tied=true"],
    "gpt": ["model=gpt"],
    "odd": ["data.context=48", "data.eval_tokens=960", "batch_tokens=192", "model.hidden=25"],
    "micro-batches": ["micro_batch=2"],
    "bfloat16": ["dtype=bfloat16"],
    "groups": [f"quant.{r}.granularity=group" for r in ("weights", "activations", "kv")],
    "attention in blocks": ["data.context=160", "data.eval_tokens=960", "batch_tokens=640"],
    "tensors": ["quant.weights.granularity=tensor"],
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "FLUSH", 4)
    monkeypatch.setattr(loop, "LOOK_SECONDS", 100.0)


def trained(runs: list[RunConfig], steps: int = 10) -> Pack:
    pack = Pack(runs, "cpu", parts=parts_of(runs[0], CPU, "cpu"))
    advance(pack, set(range(len(runs))), steps, lambda step: 1 - step / 20)
    return pack


def bits(pack: Pack, e: int) -> dict[str, bytes]:
    """Weights, moments and log."""
    return {k: v.detach().numpy().tobytes() for k, v in pack.members[e].tensors().items()}


def some_slow(*fast: str) -> list:
    """Every shape; those not named are for the slow tests."""
    marks = {n: () if n in fast else (pytest.mark.slow,) for n in SHAPES}
    return [pytest.param(shape, id=n, marks=marks[n]) for n, shape in SHAPES.items()]


@pytest.mark.parametrize(
    "shape", some_slow("llama", "micro-batches", "bfloat16", "attention in blocks")
)
def test_a_member_has_the_same_bits_in_any_lane_and_company(
    tiny: list[str], shape: list[str]
) -> None:
    """Also beside one that diverges."""
    w3, low, plain, kv, bad = (compose([*tiny, *q, *shape]) for q in (W3, LOW, PLAIN, KV, BAD))
    mixed, turned = trained([w3, low, plain, kv]), trained([kv, plain, low, w3])
    ours = {m.NAME for m in mixed.model.modules() if isinstance(m, Own) and m.own}
    assert ours == set(parts_of(plain, CPU, "cpu").split()) - {"torch"}
    assert ("blocks" in ours) == (plain.data.context == 160)
    for e in range(4):
        assert bits(mixed, e) == bits(turned, 3 - e)
    ill = trained([w3, bad, plain, kv])
    assert ill.lost == {1}
    for e in (0, 2, 3):
        assert bits(mixed, e) == bits(ill, e)
    among_equals = trained([plain] * 4)  # nobody there is quantized
    for e in range(4):
        assert bits(among_equals, e) == bits(mixed, 2)


@pytest.mark.parametrize("shape", some_slow("llama", "gpt", "groups"))
def test_one_step_agrees_with_the_run_alone(tiny: list[str], shape: list[str]) -> None:
    runs = [compose([*tiny, *q, *shape]) for q in (W3, LOW, PLAIN, KV)]
    pack = trained(runs, 1)
    for run, member in zip(runs, pack.members, strict=True):
        alone = alone_trained(run, 1)
        assert member.step == 1
        rough = 1e-2 if run.dtype == "bfloat16" else 1e-5  # of the norm
        torch.testing.assert_close(member.log_table(), alone.log_table(), rtol=rough, atol=0)
        grads, expected = (moments(s, "exp_avg") for s in (member, alone))  # 0.1 of the gradients
        torch.testing.assert_close(grads, expected, rtol=1e-5, atol=rough * expected.norm().item())


@pytest.mark.parametrize("shape", ["gpt", "grouped queries, tied"])
def test_twenty_steps_in_fp64_agree_with_the_run_alone(tiny: list[str], shape: str) -> None:
    each = [PLAIN, ["seed=3"], ["optim.lr=0.05", "optim.weight_decay=0"], ["optim.clip=0.1"]]
    runs = [compose([*tiny, *q, *SHAPES[shape], "dtype=float64"]) for q in each]
    pack = trained(runs, 20)
    for run, member in zip(runs, pack.members, strict=True):
        alone = alone_trained(run, 20)
        assert member.tensors().keys() == alone.tensors().keys()
        for name, value in member.tensors().items():
            torch.testing.assert_close(value, alone.tensors()[name], rtol=1e-5, atol=1e-8, msg=name)


def alone_trained(run: RunConfig, steps: int):
    state = fresh(run, "cpu")
    loop.advance(state, run, loop.batches_of(run), steps, lambda step: 1 - step / 20)
    return state


def moments(state, key: str) -> Tensor:
    return torch.cat([v.flatten() for k, v in state.tensors().items() if k.endswith(f".{key}")])


def test_members_are_states_of_their_own(tiny: list[str]) -> None:
    """What a member saves continues alone, what was saved alone continues in a pack; its model is live."""
    runs = [compose([*tiny, *q, "dtype=float64"]) for q in (PLAIN, ["seed=1"], W3)]
    pack = trained(runs, 8)
    alone = fresh(runs[0], "cpu")
    alone.restore(*pack.members[0].snapshot())
    advance(pack, {0, 1, 2}, 12, lambda step: 1 - step / 20)
    loop.advance(alone, runs[0], loop.batches_of(runs[0]), 12, lambda step: 1 - step / 20)
    torch.testing.assert_close(alone.log_table(), pack.members[0].log_table(), rtol=1e-9, atol=0)
    back = Pack(runs, "cpu")
    for member, source in zip(back.members, (alone, *pack.members[1:]), strict=True):
        member.restore(*source.snapshot())
    back.take_over(12, range(len(back.members)))
    advance(back, {0, 1, 2}, 16, lambda step: 1 - step / 20)
    advance(pack, {0, 1, 2}, 16, lambda step: 1 - step / 20)
    assert bits(back, 1) == bits(pack, 1)
    torch.testing.assert_close(back.members[0].log_table(), pack.members[0].log_table(), rtol=1e-9, atol=0)  # fmt: skip
    for run, member in zip(runs, pack.members, strict=True):
        copy = fresh(run, "cpu")
        copy.restore(*member.snapshot())
        assert measure(member.model, run, "cpu").mean == measure(copy.model, run, "cpu").mean


def test_what_is_lost_is_logged_to_the_look_that_found_it(tiny: list[str]) -> None:
    runs = [compose([*tiny, *q]) for q in (PLAIN, BAD)]
    pack = trained(runs, 12)
    assert pack.lost == {1}
    assert [len(m.log_table()) for m in pack.members] == [12, 4]
    with pytest.raises(loop.Diverged, match="no member's loss is finite by step 4"):
        trained([runs[1]] * 2, 12)
