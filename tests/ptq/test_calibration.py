"""H of every linear equals the direct computation from what the linear multiplied."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from precisionlaws.config import ConfigError, build
from precisionlaws.models.base import Model, Size
from precisionlaws.models.parts import Decoder, initialize, linears
from precisionlaws.overrides import option
from precisionlaws.ptq import calibration
from precisionlaws.ptq.calibration import calibrate, hessians, sample
from precisionlaws.quant import attach
from precisionlaws.quant.formats.base import Format
from precisionlaws.run import compose


def decoder() -> Decoder:
    spec = build(option("model", "llama"), Model)
    assert isinstance(spec, Model)
    model = spec.build(Size(depth=2, width=32, heads=2), 64, 16)
    assert isinstance(model, Decoder)
    initialize(model, 0)
    return model


def int_format(bits: int) -> Format:
    made = build(option("format", "int") | {"bits": bits}, Format)
    assert isinstance(made, Format)
    return made


def ids(sequences: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(64, (sequences, 16), generator=torch.Generator().manual_seed(seed))


def direct(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """Recorded whole: the rows that reach each product, by replacing the product itself."""
    seen: dict[str, list[Tensor]] = {n: [] for n, _ in linears(model)}
    plain = F.linear
    names = {m.weight.data_ptr(): n for n, m in linears(model)}

    def recorded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.data_ptr() in names:
            seen[names[weight.data_ptr()]].append(x.reshape(-1, x.shape[-1]).double())
        return plain(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "linear", recorded)
        model(tokens)
    return {n: torch.cat(x).T @ torch.cat(x) / len(torch.cat(x)) for n, x in seen.items()}


@settings(max_examples=20, deadline=None)
@given(
    sequences=st.integers(1, 9),
    cuts=st.integers(1, 9),
    activations=st.sampled_from([16, 3]),
    kv=st.sampled_from([16, 4]),
    seed=st.integers(0, 2**20),
)
def test_equals_the_direct_computation(
    sequences: int, cuts: int, activations: int, kv: int, seed: int
) -> None:
    """However the stream is cut, with and without quantizers of activations and of K and V."""
    model = attach(decoder(), activations=int_format(activations), kv=int_format(kv))
    tokens = ids(sequences, seed)
    got, want = hessians(model, tokens.split(cuts)), direct(model, tokens)
    assert set(got) == set(want) == {n for n, _ in linears(model)}
    for name, H in want.items():
        assert got[name].dtype == torch.float64
        # activations are float32, and batches of other sizes round them differently
        torch.testing.assert_close(got[name], H, rtol=1e-3, atol=1e-3 * H.diagonal().max().item())
        if activations == 16 and kv == 16:
            torch.testing.assert_close(got[name], H, rtol=1e-5, atol=1e-6)


def test_linears_that_read_one_tensor_share_one_H() -> None:
    H = hessians(decoder(), [ids()])
    for block in ("blocks.0", "blocks.1"):
        q, k, v, o = (H[f"{block}.attn.{n}"] for n in "qkvo")
        assert q is k is v
        assert o is not q
        assert H[f"{block}.mlp.gate"] is H[f"{block}.mlp.up"]
    assert len({id(h) for h in H.values()}) == 2 * 4


def test_it_sees_what_a_foreign_linear_multiplies() -> None:
    """QuantTorchLinear quantizes its input itself, after the hook."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 16))
    model = attach(plain, activations=int_format(3))
    x = torch.randn(5, 7, 32)
    got, want = hessians(model, x.split(2)), direct(model, x)
    for name, H in want.items():
        torch.testing.assert_close(got[name], H, rtol=1e-5, atol=1e-6)


class Twice(nn.Module):
    """One linear in two places, and one that nothing reaches."""

    def __init__(self, unused: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8) if unused else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        return self.other(x) + self.shared(x)


def test_a_shared_linear_counts_every_use_and_an_unused_one_is_named() -> None:
    torch.manual_seed(0)
    model, x = Twice(False), torch.randn(4, 3, 8)
    got, want = hessians(model, x.split(2)), direct(model, x)
    for name, H in want.items():
        torch.testing.assert_close(got[name], H, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="no calibration input reached unused"):
        hessians(Twice(True), [x])


def test_nothing_is_left_behind() -> None:
    model = decoder().train()
    before = model(ids())
    hessians(model, [ids()])
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(ids()), before)
    with pytest.raises(IndexError):
        hessians(model, [ids() + 64])
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_memory_is_bounded_by_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(calibration, "CHUNK", 48)
    model = decoder()
    model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel()))
    tokens = ids(11).numpy().astype(np.uint8)
    made = calibrate(model, tokens)
    assert max(sizes) == 48
    assert sum(sizes[1:]) == made.tokens == 11 * 16
    want = direct(decoder(), torch.from_numpy(tokens).long())
    for name, H in want.items():
        torch.testing.assert_close(made.hessians[name], H, rtol=1e-5, atol=1e-6)
    assert made.info() == {"calibration": made.digest, "calibration_tokens": 176}
    assert calibrate(model, tokens).digest == made.digest != calibrate(model, tokens[:10]).digest


def test_samples_are_training_tokens_and_nothing_else(tiny: list[str], text_file: Path) -> None:
    data = compose(tiny).data
    corpus = data.corpus()
    rows = sample(data, 1000, 0)
    assert rows.shape == (32, 32)  # 1000 tokens in whole sequences
    train = corpus.train.tobytes()
    starts = [train.index(row.tobytes()) for row in rows]
    assert len(set(starts)) == 32
    assert all(s % 32 == 0 for s in starts)
    assert np.array_equal(rows, sample(data, 1000, 0))
    assert not np.array_equal(rows, sample(data, 1000, 1))
    with pytest.raises(
        ConfigError, match="ptq.calibration_tokens must be at most the 5[0-9]+ train"
    ):
        sample(data, 60_000, 0)
