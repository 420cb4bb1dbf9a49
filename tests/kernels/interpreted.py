"""The Triton kernels in Triton's interpreter, bit for bit against the reference.

Not collected by itself: the interpreter is chosen when triton is imported, so test_interpreter.py runs
this file in a process of its own.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import backend, fake_quant, opaque, ops, reference
from precisionlaws.kernels.reference import q_max_of
from precisionlaws.quant.estimators import straight_through

# numpy says of the interpreter's inf / inf what the test asks for
pytestmark = pytest.mark.filterwarnings(
    "ignore:(invalid value|overflow) encountered:RuntimeWarning"
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WORDS = {4: torch.int32, 2: torch.int16}


def assert_same_bits(x: Tensor, q_max: float | Tensor, group: int | None) -> None:
    """Zeros with their signs; a NaN is any NaN."""
    got, expected = ops.fake_quantize(x, q_max, group), reference.fake_quantize(x, q_max, group)
    assert (got.shape, got.dtype, got.stride()) == (x.shape, x.dtype, expected.stride())
    word, nan = WORDS[x.element_size()], expected.isnan()
    assert torch.equal(got.isnan(), nan)
    assert torch.equal(got.view(word)[~nan], expected.view(word)[~nan])


def special(dtype: torch.dtype) -> Tensor:
    """(16, 96): what goes wrong, a kind per row."""
    x = torch.randn(16, 96, generator=torch.Generator().manual_seed(0))
    x[1] = 0.0
    x[2] = -0.0
    x[3, ::2] = -0.0
    x[4] *= 2.0**-149 * 20  # fp32 subnormals, zeros in other types
    x[5] *= 1e-7 if dtype == torch.float16 else 1e-39  # subnormals of fp16 and bf16
    x[6] = torch.arange(96) - 47.5  # ties
    x[7] = torch.arange(96).clamp(max=14) / 2  # ties at 4 bits
    x[8, 5] = 60000.0 if dtype == torch.float16 else 3.3e38
    x[9] = x[9].abs()
    x[10] = 1 / 3
    x[11, 90] = float("nan")
    x[12, 3] = float("inf")
    x[13, 3], x[13, 60] = -float("inf"), -float("nan")
    return x.to(dtype)


def test_this_process_interprets() -> None:
    assert fake_quant.INTERPRETED
    assert backend("cpu") == "interpret"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [3, 4, 8, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", [96, 16, None])
def test_special_values(dtype: torch.dtype, bits: int, group: int | None) -> None:
    assert_same_bits(special(dtype), q_max_of(bits), group)
    assert_same_bits(special(dtype)[:11], q_max_of(bits), group)  # finite: None is not all NaN


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", range(3, 16))
def test_every_bit_width(dtype: torch.dtype, bits: int) -> None:
    x = torch.randn(64, 480, generator=torch.Generator().manual_seed(bits)).to(dtype)
    for group in (480, 160, 96, 32, 15, 1, None):
        assert_same_bits(x, q_max_of(bits), group)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_value_of_16_bits(dtype: torch.dtype, bits: int) -> None:
    order = torch.randperm(2**16, generator=torch.Generator().manual_seed(1))
    x = (order - 2**15).to(torch.int16).view(dtype)
    assert_same_bits(x.view(-1, 16), q_max_of(bits), 16)
    assert_same_bits(x.sort().values.view(-1, 16), q_max_of(bits), 16)  # alike in size
    assert_same_bits(x[x.isfinite()], q_max_of(bits), None)


SHAPES = [
    (),
    (1,),
    (7,),
    (1, 1),
    (5, 123, 123),
    (3, 1, 64),
    (2, 3, 5, 48),
    (0,),
    (0, 16),
    (3, 0, 16),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_weird_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert_same_bits(x, 7, None)
    if shape and shape[-1]:
        assert_same_bits(x, 7, shape[-1])
        assert_same_bits(x, 7, 1)


def test_layout_of_memory_does_not_matter() -> None:
    x = torch.randn(64, 6, 4, generator=torch.Generator().manual_seed(3))
    for view in (x.permute(1, 2, 0), x[::2, :, 1:3], x[:, :1].expand(64, 6, 4), x[3:, 2]):
        for group in (view.shape[-1], 2, None):
            assert_same_bits(view, 7, group)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("programs", [1, 3, 1024])
@pytest.mark.parametrize("shape", [(3, 300), (1, 129)])
def test_scales_longer_than_a_program(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, programs: int, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(fake_quant, "HELD", 32)
    monkeypatch.setattr(fake_quant, "INTERPRETED_TILE", 64)
    monkeypatch.setattr(fake_quant, "PROGRAMS", programs)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    assert_same_bits(x, 7, None)
    assert_same_bits(x, 7, shape[-1])
    x[0, ..., 40] = float("nan")
    assert_same_bits(x, 7, shape[-1])
    assert_same_bits(x, 7, None)


@pytest.mark.parametrize("held", [16384, 8])
@pytest.mark.parametrize("group", [None, 16, 32])
def test_bits_per_member(monkeypatch: pytest.MonkeyPatch, held: int, group: int | None) -> None:
    monkeypatch.setattr(fake_quant, "HELD", held)
    x = torch.randn(3, 2, 2, 32, generator=torch.Generator().manual_seed(5))
    assert_same_bits(x, torch.tensor([3.0, 7.0, 127.0]), group)
    assert_same_bits(x, torch.tensor([3, 7, 127]), None)


@pytest.mark.golden
def test_reference_vectors(goldens: Path) -> None:
    with np.load(goldens / "quant_goldens.npz") as file:
        x = torch.from_numpy(file["rows/x"])
        groups = {"row": x.shape[-1], "g32": 32, "tensor": None}
        cases = [k.split("/")[1:3] for k in file if k.startswith("int_sym/") and k.endswith("/y")]
        assert cases
        for bits, name in cases:
            y = ops.fake_quantize(x, q_max_of(int(bits)), groups[name]).numpy()
            assert np.array_equal(y.view(np.int32), file[f"int_sym/{bits}/{name}/y"].view(np.int32))


def test_mistakes_are_those_of_the_reference() -> None:
    with pytest.raises(ValueError, match=r"groups of 16 must divide the last axis, which has 40"):
        ops.fake_quantize(torch.ones(4, 40), 7, 16)
    with pytest.raises(ValueError, match=r"fp32, fp16 and bf16, not torch.float64"):
        ops.fake_quantize(torch.ones(4, 32, dtype=torch.float64), 7, 16)


def test_gradient_is_the_identity() -> None:
    x = torch.randn(4, 32, requires_grad=True)
    (straight_through(lambda x: ops.fake_quantize(x, 7, 16))(x) * torch.arange(32)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.arange(32.0).expand(4, 32))
    assert torch.equal(opaque.fake_quant_int(x, 7.0, 16), reference.fake_quantize(x, 7, 16))
