"""The definition of integer fake quantization: laws that hold bit for bit, and reference vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from precisionlaws.kernels import reference

BITS = [2, 3, 4, 8, 15]
GROUPS = {"row": 128, "g32": 32, "tensor": None}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def quotient(x: Tensor, s: Tensor, group: int | None) -> Tensor:
    """x / s with the scale of its group at every value."""
    n = x.numel() if group is None else group
    return (x.reshape(-1, n) / s.reshape(-1, 1)).view(x.shape)


@pytest.mark.golden
def test_golden_values_and_scales(goldens: Path) -> None:
    with np.load(goldens / "quant_goldens.npz") as file:
        x = torch.from_numpy(file["rows/x"])
        cases = [k.split("/")[1:3] for k in file if k.startswith("int_sym/") and k.endswith("/y")]
        assert cases
        for bits, name in cases:
            group = x.shape[-1] if name == "row" else GROUPS[name]
            q_max = reference.q_max_of(int(bits))
            y = reference.fake_quantize(x, q_max, group).numpy()
            s = reference.scale(x, q_max, group).numpy().reshape(-1)
            assert np.array_equal(y.view(np.int32), file[f"int_sym/{bits}/{name}/y"].view(np.int32))
            assert np.array_equal(s, file[f"int_sym/{bits}/{name}/scale"])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [None, 16, 48])
def test_laws_of_rounding(bits: int, group: int | None) -> None:
    q_max = reference.q_max_of(bits)
    x = normal(7, 5, 48)
    y, s = reference.fake_quantize(x, q_max, group), reference.scale(x, q_max, group)
    assert torch.equal(reference.fake_quantize(y, q_max, group), y)  # idempotent
    assert torch.equal(reference.fake_quantize(-x, q_max, group), -y)  # odd
    assert torch.equal(reference.fake_quantize(8 * x, q_max, group), 8 * y)  # scale by 2^k
    codes = reference.codes(x, s, q_max, group)
    assert codes.abs().max() <= q_max
    assert torch.equal(codes, codes.round())
    assert torch.equal(reference.values(codes, s, group), y)
    error = quotient((y - x).double(), s.double(), group)
    assert error.abs().max() <= 0.5 * (
        1 + 1e-6 * q_max
    )  # half a step, and fp32 rounding of x/s and q·s


@settings(max_examples=60, deadline=None)
@given(
    lead=st.lists(st.integers(0, 4), max_size=3),
    groups=st.integers(1, 4),
    group=st.integers(1, 70),
    bits=st.integers(2, 15),
    seed=st.integers(0, 2**31),
)
def test_any_shape_equals_group_by_group(
    lead: list[int], groups: int, group: int, bits: int, seed: int
) -> None:
    x = normal(*lead, groups * group, seed=seed)
    q_max = reference.q_max_of(bits)
    y = reference.fake_quantize(x, q_max, group)
    assert y.shape == x.shape
    for got, alone in zip(y.reshape(-1, group), x.reshape(-1, group), strict=True):
        s = alone.abs().max() / q_max
        expected = (alone / s).round().clamp(-q_max, q_max) * s if s else alone
        assert torch.equal(got, expected)


def test_groups_do_not_mix() -> None:
    x = normal(4, 64)
    y = reference.fake_quantize(x, 7, 16)
    changed = x.clone()
    changed[2, 20] = 100.0
    differs = (reference.fake_quantize(changed, 7, 16) != y).view(4, 4, 16).any(-1)
    assert differs.nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("group", [None, 16, 64])
def test_layout_of_memory_does_not_matter(group: int | None) -> None:
    x = normal(64, 6, 3).permute(1, 2, 0)
    assert torch.equal(
        reference.fake_quantize(x, 7, group), reference.fake_quantize(x.contiguous(), 7, group)
    )


def test_input_is_left_alone() -> None:
    x = normal(4, 32)
    before = x.clone()
    reference.fake_quantize(x, 7, 16)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_is_computed_in_fp32(dtype: torch.dtype) -> None:
    x = normal(64, 32).to(dtype)
    y = reference.fake_quantize(x, 127, 32)
    assert y.dtype == dtype
    assert torch.equal(y, reference.fake_quantize(x.float(), 127, 32).to(dtype))


def test_fp64_stays_fp64() -> None:
    x = normal(8, 32, dtype=torch.float64)
    y, s = reference.fake_quantize(x, 7, 32), reference.scale(x, 7, 32)
    assert s.dtype == y.dtype == torch.float64
    assert torch.equal(s, x.abs().amax(-1) / 7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", [16, 64])
def test_what_is_not_finite_spoils_its_group_and_no_other(bad: float, group: int) -> None:
    x = normal(4, 64)
    x[1, 3] = bad
    spoilt = reference.fake_quantize(x, 7, group).isnan().view(-1, group)
    assert spoilt.all(-1).sum() == 1
    assert spoilt.any(-1).sum() == 1


def test_zeros_and_subnormals() -> None:
    assert torch.equal(reference.fake_quantize(torch.zeros(3, 16), 7, 16), torch.zeros(3, 16))
    tiny = torch.full((1, 16), 10 * 2.0**-149)  # s = RN(10/7) = 1 unit: 10 is clipped to 7
    assert torch.equal(reference.fake_quantize(tiny, 7, 16), torch.full((1, 16), 7 * 2.0**-149))


@pytest.mark.parametrize("shape", [(0,), (0, 16), (3, 0, 16)])
@pytest.mark.parametrize("group", [None, 16])
def test_empty(shape: tuple[int, ...], group: int | None) -> None:
    x = torch.empty(shape)
    if shape[-1] == 0 and group:
        group = 1
    assert reference.fake_quantize(x, 7, group).shape == x.shape


def test_group_that_does_not_divide_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"groups of 16 must divide the last axis, which has 40"):
        reference.fake_quantize(normal(4, 40), 7, 16)


@pytest.mark.parametrize("group", [None, 16, 32])
def test_bits_per_member(group: int | None) -> None:
    x = normal(3, 4, 5, 32)
    q_max = torch.tensor([3.0, 7.0, 127.0])
    y, s = reference.fake_quantize(x, q_max, group), reference.scale(x, q_max, group)
    codes = reference.codes(x, s, q_max, group)
    assert torch.equal(reference.values(codes, s, group, members=3), y)
    for i, q in enumerate(q_max.tolist()):
        assert torch.equal(y[i], reference.fake_quantize(x[i], q, group))
