"""Floats, MX, NVFP4, zero points, masks, random numbers and the rotation in Triton's interpreter, bit for bit
against plain torch. Not collected by itself: see interpreted.py.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import (
    asymmetric,
    blocks,
    device,
    hadamard,
    numbers,
    ops,
    reference,
    scaled,
)
from precisionlaws.kernels.backends import kernel
from precisionlaws.kernels.numbers import Type, float_type, int_type
from tests.kernels.test_numbers import TYPES as NINE
from tests.kernels.test_numbers import every_bf16

pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|overflow) encountered:RuntimeWarning"
)
DTYPES = [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16]
TYPES = {
    "e4m3fn": float_type(4, 3, "nan"),
    "e5m2": float_type(5, 2, "ieee"),
    "e3m2": float_type(3, 2, "none"),
    "e2m3": float_type(2, 3, "none"),
    "e2m1": float_type(2, 1, "none"),
    "e8m3": float_type(8, 3, "ieee"),  # wide: in fp64
    "int4": int_type(7),
}
AT = (-(2**62) - 12345, 8)  # seed and first position
Vectors = Mapping[str, np.ndarray]


def same(got: Tensor, expected: Tensor) -> bool:
    """Bits, zeros with their signs; a NaN is any NaN."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    word, nan = {4: torch.int32, 2: torch.int16}[got.element_size()], expected.isnan()
    bits = (t.contiguous().view(word)[~nan] for t in (got, expected))
    return torch.equal(got.isnan(), nan) and torch.equal(*bits)


def special(dtype: torch.dtype) -> Tensor:
    """(14, 96): what goes wrong, a kind per row; the last three rows are not finite."""
    x = torch.randn(14, 96, generator=torch.Generator().manual_seed(0))
    x[1], x[2], x[3, ::2] = 0.0, -0.0, -0.0
    x[4] *= 2.0**-149 * 20  # fp32 subnormals, zeros in other types
    x[5] *= 1e-7 if dtype == torch.float16 else 1e-39  # subnormals of fp16 and bf16
    x[6] = torch.arange(96) - 47.5
    x[7] = torch.arange(96).clamp(max=14) / 2  # ties
    x[8, 5] = 60000.0 if dtype == torch.float16 else 3.3e38
    x[9] = x[9].abs()
    x[10] = 2.0 ** (torch.arange(96) % 24 - 12)
    x[11, 90], x[12, 3] = torch.nan, torch.inf
    x[13, 3], x[13, 60] = -torch.inf, -torch.nan
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NINE)
def test_every_bf16_input_rounds_as_in_ml_dtypes(dtype: torch.dtype, name: str) -> None:
    x, expected = (t.to(dtype).view(16, -1) for t in every_bf16(name))
    got = ops.rounded(x, torch.ones(16), *float_type(*NINE[name][0]), 4096)
    assert same(got, expected)


@pytest.mark.parametrize("name", ["int", "type", "mx", "nvfp4", "asymmetric"])
def test_meta_tensors_have_shapes(name: str) -> None:
    rest = {"int": (7, 16), "asymmetric": (15, 16), "nvfp4": (16, None, False)}
    y = kernel(name, x := torch.empty(3, 32, device="meta"))(x, *rest.get(name, (1, 0, 6.0, 16)))
    assert (y.shape, y.device.type) == ((3, 32), "meta")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("at", [None, AT])
def test_types(dtype: torch.dtype, name: str, at: tuple[int, int] | None) -> None:
    kind = TYPES[name]
    for x in (special(dtype), special(dtype)[:11]):
        for group in (96, 16, 6, None):
            assert same(ops.to_type(x, *kind, group, at), scaled.fake_quantize(x, *kind, group, at))
            s = reference.scale(x, kind[2], group) * 0.7
            assert same(ops.rounded(x, s, *kind, group, at), scaled.rounded(x, s, *kind, group, at))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["e4m3fn", "e2m1"])
@pytest.mark.parametrize("group", [96, 16, None])
@pytest.mark.parametrize("midrise", [False, True])
def test_masks(dtype: torch.dtype, name: str, group: int | None, midrise: bool) -> None:
    x, kind = special(dtype), TYPES[name]
    s = reference.scale(x, kind[2], group) * 0.7
    s[s == s.min()] = 0.0 if midrise else s.min()
    got = ops.rounded_within(x, s, *kind, group, kind[2] + 0.25, midrise=midrise)
    expected = scaled.rounded_within(x, s, *kind, group, kind[2] + 0.25, midrise=midrise)
    assert same(got[0], expected[0])
    assert got[1].dtype == torch.bool
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 15, 255, 2**15 - 1])
@pytest.mark.parametrize("group", [96, 16, None])
def test_zero_points(dtype: torch.dtype, n: int, group: int | None) -> None:
    for x in (special(dtype), special(dtype)[:11], special(dtype)[6:8] + 3):
        assert same(ops.asymmetric(x, n, group), asymmetric.fake_quantize(x, n, group))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [None, AT, pytest.param((7, 3), marks=pytest.mark.slow)])
def test_blocks(dtype: torch.dtype, at: tuple[int, int] | None) -> None:
    kinds = [k for k in (*TYPES.values(), (6, 0, 127 / 64)) if k[2] < numbers.WIDE]
    for x in (special(dtype), special(dtype)[:8] * 1e-3):
        for group in (16, 12):
            for kind in kinds:
                assert same(ops.mx(x, *kind, group, at), blocks.mx(x, *kind, group, at))
            for outer in (None, 96, 0):
                for floored in (False, True):
                    choices = (group, outer, floored, at)
                    assert same(ops.nvfp4(x, *choices), blocks.nvfp4(x, *choices))


@pytest.mark.parametrize("group", [16, 96, None])
def test_scales_longer_than_a_program(monkeypatch: pytest.MonkeyPatch, group: int | None) -> None:
    monkeypatch.setattr(device, "HELD", 8)
    monkeypatch.setattr(device, "INTERPRETED_TILE", 64)
    x, kind = special(torch.float32)[[0, 2, 4, 8, 12]], TYPES["e4m3fn"]
    for rows in (x, x[:4]) if group is None else (x,):
        for at in (None, AT, (7, 3)):
            y = ops.to_type(rows, *kind, group, at)
            assert same(y, scaled.fake_quantize(rows, *kind, group, at))
        s = reference.scale(rows, kind[2], group) * 0.7
        got, mask = ops.rounded_within(rows, s, *kind, group, 400.0)
        expected, inside = scaled.rounded_within(rows, s, *kind, group, 400.0)
        assert same(got, expected)
        assert torch.equal(mask, inside)
        assert same(ops.asymmetric(rows, 15, group), asymmetric.fake_quantize(rows, 15, group))
        assert same(ops.nvfp4(rows, 16, 96, False), blocks.nvfp4(rows, 16, 96, False))


@pytest.mark.parametrize("held", [16384, 8])
@pytest.mark.parametrize("group", [None, 16, 32])
def test_types_per_member(monkeypatch: pytest.MonkeyPatch, held: int, group: int | None) -> None:
    monkeypatch.setattr(device, "HELD", held)
    kinds: list[Type] = [TYPES["e4m3fn"], TYPES["int4"], TYPES["e2m1"]]
    x = torch.randn(3, 2, 2, 32, generator=torch.Generator().manual_seed(5))
    y = ops.to_types(x, scaled.table(kinds), group)
    assert same(y, scaled.fake_quantize_members(x, scaled.table(kinds), group))
    for got, one, kind in zip(y, x, kinds, strict=True):
        assert same(got, scaled.fake_quantize(one, *kind, group))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (5, 3, 64), (0, 16), (3, 0, 16)])
def test_weird_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    kind = TYPES["e2m1"]
    assert same(ops.to_type(x, *kind, None), scaled.fake_quantize(x, *kind, None))
    if shape and shape[-1]:
        n = shape[-1]
        assert same(ops.mx(x, *kind, n), blocks.mx(x, *kind, n))
        assert same(ops.nvfp4(x, n, None, False), blocks.nvfp4(x, n, None, False))
        assert same(ops.asymmetric(x, 15, n), asymmetric.fake_quantize(x, 15, n))
        assert ops.rotated(x, n & -n).shape == x.shape


def test_layout_of_memory_does_not_matter() -> None:
    x = special(torch.float32)[:11].t()
    kind = TYPES["e2m1"]
    assert same(ops.mx(x, *kind, 11), blocks.mx(x, *kind, 11))
    assert same(ops.to_type(x, *kind, 11, AT), scaled.fake_quantize(x, *kind, 11, AT))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 4, 16, 32, 128])
def test_rotation(dtype: torch.dtype, block: int) -> None:
    """Sums in another order: equal to fp32's precision, and to a step of the output."""
    x = torch.randn(37, 256, generator=torch.Generator().manual_seed(3)).to(dtype)
    got, expected = ops.rotated(x, block).float(), hadamard.rotated(x, block).float()
    step = 2e-6 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    assert (got - expected).abs().max() <= step
    assert ((got - expected).abs() > 1e-5).float().mean() <= 1e-3


@pytest.fixture(scope="module")
def vectors(goldens: Path) -> Vectors:
    with np.load(goldens / "quant_goldens.npz") as file:
        return {k: file[k] for k in file.files}


@pytest.mark.golden
def test_reference_vectors(vectors: Vectors) -> None:
    def equal(y: Tensor, key: str) -> bool:
        expected = vectors[key]
        bits = y.numpy().reshape(expected.shape).view(np.int32)
        return np.array_equal(bits, expected.view(np.int32))

    x = torch.from_numpy(vectors["rows/x"])
    n, one = x.shape[-1], torch.ones(())
    for name, kind in TYPES.items():
        if f"fp_row/{name}/y" in vectors:
            assert equal(ops.to_type(x, *kind, n), f"fp_row/{name}/y")
            assert equal(ops.mx(x, *kind, 32), f"mx/{name}/y")
            values = torch.from_numpy(vectors[f"elem/{name}/x"]).view(1, -1)
            inside = values[values.isfinite()].view(1, -1)
            sat = torch.from_numpy(vectors[f"elem/{name}/sat"]).view(1, -1)[values.isfinite()]
            assert same(ops.rounded(inside, one, *kind, None).view(-1), sat)
    assert equal(ops.mx(x, 6, 0, 127 / 64, 32), "mx/int8/y")
    for bits in range(2, 16):
        assert equal(ops.asymmetric(x, 2**bits - 1, n), f"int_asym/{bits}/row/y")
    x = torch.from_numpy(vectors["nvfp4/x"])
    for outer, level in ((None, ""), (0, "_1level")):
        for floored, rule in ((False, ""), (True, "_torchao")):
            assert equal(ops.nvfp4(x, 16, outer, floored), f"nvfp4{level}{rule}/y")
    x = torch.from_numpy(vectors["had/x"])
    for block in (16, 32, 64, 128):
        y = torch.from_numpy(vectors[f"had/{block}/y"])
        assert (ops.rotated(x, block) - y).abs().max() <= 2e-6
