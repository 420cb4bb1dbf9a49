"""Lower precision of matrix products: what is rounded, what stays fp32, and what names say."""

import json
from pathlib import Path

import pytest
import torch

from precisionlaws.config import ConfigError, build
from precisionlaws.models.parts import Decoder
from precisionlaws.overrides import option
from precisionlaws.quant.attachment import Quantizer
from precisionlaws.run import Exec, compose, run_id
from precisionlaws.store import Store
from precisionlaws.training.evaluate import evaluate, held_out
from precisionlaws.training.loop import advance, batches_of, mean_loss
from precisionlaws.training.state import fresh, model_of
from precisionlaws.training.unit import train_runs

EXEC: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("model", ["llama", "gpt"])
@pytest.mark.parametrize("quant", ["none", "low_precision"])
def test_bfloat16_rounds_products_and_keeps_the_rest(
    tiny: list[str], model: str, quant: str
) -> None:
    run = compose([*tiny, f"model={model}", f"quant={quant}", "dtype=bfloat16"])
    state = fresh(run, "cpu")
    seen: dict[str, torch.dtype] = {}
    for name, module in state.model.named_modules():
        module.register_forward_hook(lambda _, __, y, n=name: seen.update({n: y.dtype}))
    loss = mean_loss(state, ids())
    loss.backward()
    assert loss.dtype == torch.float32
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in state.model.parameters() if p.grad is not None} == {torch.float32}
    assert seen["blocks.0.attn.q"] == seen["blocks.0.mlp.down"] == torch.bfloat16
    kept = ("", "embed", "norm", "blocks.0", "blocks.1", "blocks.0.norm", "blocks.0.mlp_norm")
    assert {seen[n] for n in kept} == {torch.float32}
    exact = fresh(compose([*tiny, f"model={model}", f"quant={quant}"]), "cpu")
    assert loss.item() == pytest.approx(mean_loss(exact, ids()).item(), rel=1e-2)
    assert loss.item() != mean_loss(exact, ids()).item()


def test_quantizers_compute_in_fp32(tiny: list[str]) -> None:
    """A quantizer's output is that of its input in fp32, rounded to the input's type."""
    run = compose([*tiny, "quant=low_precision", "dtype=bfloat16"])
    model, seen = model_of(run, "cpu"), []
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.register_forward_hook(lambda m, x, y: seen.append((m.rounder, x[0], y)))
    with torch.no_grad():
        model(ids()[:, :-1])
    assert {x.dtype for _, x, _ in seen} == {torch.float32, torch.bfloat16}
    for quantize, x, y in seen:
        assert torch.equal(y, quantize(x.float()).to(x.dtype))


def test_norms_sum_in_fp32_under_autocast(tiny: list[str]) -> None:
    model = model_of(compose([*tiny, "dtype=bfloat16"]), "cpu")
    assert isinstance(model, Decoder)
    x = torch.randn(3, 5, 16) * 100
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.norm(x)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, model.norm(x), rtol=1e-6, atol=1e-6)


def test_bfloat16_trains_and_is_evaluated_alike(tiny: list[str], tmp_path: Path) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        run = compose([*tiny, "tokens=10k", f"dtype={dtype}"])
        train_runs([run], Store(tmp_path), EXEC)
        state = fresh(run, "cpu")
        advance(
            state,
            run,
            batches_of(run),
            run.steps,
            lambda s, r=run: r.lr_schedule.factor(s, r.steps),
        )
        losses[dtype] = evaluate(state.model, held_out(run, "cpu")).mean
        assert json.loads(Store(tmp_path).result(run_id(run)).read_text())["loss"] == losses[dtype]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_names_differ_by_precision(tiny: list[str]) -> None:
    names = {run_id(compose([*tiny, f"dtype={d}"])) for d in ("float32", "float64", "bfloat16", "tf32")}  # fmt: skip
    assert len(names) == 4


def test_tf32_needs_a_gpu(tiny: list[str], tmp_path: Path) -> None:
    run, cpu = compose([*tiny, "dtype=tf32"]), build(option("exec", "default") | {"device": "cpu"}, Exec)  # fmt: skip
    assert isinstance(cpu, Exec)
    with pytest.raises(ConfigError, match="^dtype=tf32 needs a GPU, and this run is on a CPU"):
        train_runs([run], Store(tmp_path), cpu)
    with pytest.raises(ConfigError, match="dtype must be one of float32, float64, bfloat16, tf32"):
        compose([*tiny, "dtype=float16"])


@pytest.mark.gpu
def test_tf32_and_bfloat16_on_a_gpu(tiny: list[str]) -> None:
    exact = mean_loss(fresh(compose(tiny), "cuda"), ids().cuda()).item()
    for dtype, near in (("tf32", 1e-3), ("bfloat16", 1e-2)):
        loss = mean_loss(fresh(compose([*tiny, f"dtype={dtype}"]), "cuda"), ids().cuda()).item()
        assert loss == pytest.approx(exact, rel=near)
    model_of(compose(tiny), "cuda")
    assert torch.get_float32_matmul_precision() == "highest"
