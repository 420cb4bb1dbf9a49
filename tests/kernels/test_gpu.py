"""On a GPU: Triton, torch on the device and torch on the CPU give the same bits.

pytest -m gpu tests/kernels
"""

import pytest
import torch
from torch import Tensor

from precisionlaws.kernels import (
    asymmetric,
    backend,
    blocks,
    fake_quantize,
    hadamard,
    numbers,
    opaque,
    ops,
    reference,
    scaled,
)
from precisionlaws.kernels.reference import q_max_of
from precisionlaws.quant.estimators import straight_through

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WORDS = {4: torch.int32, 2: torch.int16}


def assert_same(got: Tensor, expected: Tensor) -> None:
    """Bit for bit, zeros with their signs; a NaN is any NaN."""
    got, expected = got.cpu(), expected.cpu()
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    word, nan = WORDS[got.element_size()], expected.isnan()
    assert torch.equal(got.isnan(), nan)
    assert torch.equal(got.view(word)[~nan], expected.view(word)[~nan])


def check(x: Tensor, q_max: float | Tensor, group: int | None) -> None:
    expected = reference.fake_quantize(x, q_max, group)
    on_gpu = q_max.cuda() if isinstance(q_max, Tensor) else q_max
    assert_same(fake_quantize(x.cuda(), on_gpu, group), expected)
    assert_same(reference.fake_quantize(x.cuda(), on_gpu, group), expected)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_triton_is_in_effect() -> None:
    assert backend("cuda") == "triton"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", range(3, 16))
def test_every_bit_width(dtype: torch.dtype, bits: int) -> None:
    x = normal(96, 960, seed=bits).to(dtype)
    for group in (960, 480, 96, 64, 32, 16, 15, 1, None):
        check(x, q_max_of(bits), group)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (5, 123, 123), (2, 20000), (3, 16385), (0, 16), (1, 16), (1, 100_003)]
)
def test_weird_shapes(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = normal(*shape, seed=1).to(dtype)
    check(x, 7, None)
    if shape:
        check(x, 7, shape[-1])
        check(x, 7, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("group", [2, 16, 256])
def test_every_value_of_16_bits(dtype: torch.dtype, group: int) -> None:
    order = torch.randperm(2**16, generator=torch.Generator().manual_seed(2))
    x = (order - 2**15).to(torch.int16).view(dtype)
    for bits in (3, 4, 8, 15):
        check(x.view(-1, group), q_max_of(bits), group)
        check(x.sort().values.view(-1, group), q_max_of(bits), group)


def test_every_size_of_fp32() -> None:
    """Exponents from subnormal to infinite, in the values and in the spread of a group."""
    words = torch.randint(-(2**31), 2**31, (2**15, 32), generator=torch.Generator().manual_seed(3))
    wild = words.to(torch.int32).view(torch.float32)
    tame = normal(2**12, 32, seed=4) * 2.0 ** torch.arange(-148, 124).repeat(16)[: 2**12, None]
    for x in (wild, tame, tame * 0):
        for bits in (3, 4, 8, 15):
            check(x, q_max_of(bits), 32)


@pytest.mark.parametrize("group", [None, 16, 4096])
def test_bits_per_member(group: int | None) -> None:
    x = normal(3, 4, 4, 4096, seed=5)
    check(x, torch.tensor([3.0, 7.0, 127.0]), group)


def test_layout_of_memory_does_not_matter() -> None:
    x = normal(64, 6, 48)
    for view in (x.permute(1, 2, 0), x[::2, :, 1:33], x[3:, 2], x.flatten()[1:]):
        for group in (view.shape[-1], None):
            expected = reference.fake_quantize(view, 7, group)
            moved = x.cuda().as_strided(view.shape, view.stride(), view.storage_offset())
            assert_same(fake_quantize(moved, 7, group), expected)


@pytest.mark.parametrize("group", [None, 2**10])
def test_more_than_2_to_the_31_values(group: int | None) -> None:
    x = torch.zeros(2**21 + 1, 2**10, dtype=torch.bfloat16, device="cuda")
    x[-1] = torch.arange(2**10)
    y = fake_quantize(x, 7, group)
    assert_same(y[-1], reference.fake_quantize(x[-1].cpu(), 7, 2**10))
    assert not y[:-1].any()


@pytest.mark.parametrize("group", [None, 1024])
def test_repeats_itself_and_is_captured_by_a_graph(group: int | None) -> None:
    x = normal(512, 1024).cuda()
    expected = fake_quantize(x, 7, group)
    assert_same(fake_quantize(x, 7, group), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fake_quantize(x, 7, group)
    x.mul_(3)
    graph.replay()
    assert_same(y, reference.fake_quantize(x.cpu(), 7, group))


@pytest.mark.filterwarnings("ignore")  # of inductor, about itself
def test_gradient_and_compilation() -> None:
    quantize = straight_through(lambda x: fake_quantize(x, 7, x.shape[-1]))
    x = normal(64, 256).cuda().requires_grad_()
    compiled = torch.compile(quantize, fullgraph=True)
    for function in (quantize, compiled):
        y = function(x)
        assert_same(y.detach(), reference.fake_quantize(x.detach().cpu(), 7, 256))
        (grad,) = torch.autograd.grad((y * y.detach()).sum(), x)
        assert torch.equal(grad, y.detach())


def test_operator_keeps_the_contract_of_torch() -> None:
    found = torch.library.opcheck(opaque.fake_quant_int, (normal(4, 32).cuda(), 7.0, 16))
    assert set(found.values()) == {"SUCCESS"}


TYPES = {
    "e4m3": numbers.float_type(4, 3, "nan"),
    "e5m2": numbers.float_type(5, 2, "ieee"),
    "e2m1": numbers.float_type(2, 1, "none"),
    "e8m3": numbers.float_type(8, 3, "ieee"),  # wide: in fp64
    "int3": numbers.int_type(3),
}
AT = (-(2**62) - 12345, 8)  # seed and first position of stochastic rounding


def wild(dtype: torch.dtype) -> Tensor:
    """(96, 128): normal values of many sizes, ties, zeros and what is not finite, a kind per row."""
    x = normal(96, 128) * 2.0 ** torch.arange(-48, 48).unsqueeze(1)
    x[:4], x[4], x[5], x[6, ::2] = torch.arange(128) / 2 - 32, 0.0, -0.0, -0.0
    x[7, 90], x[8, 3], x[9, 60] = torch.nan, torch.inf, -torch.inf
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("at", [None, AT])
def test_types_and_blocks(dtype: torch.dtype, name: str, at: tuple[int, int] | None) -> None:
    x, kind = wild(dtype), TYPES[name]
    for group in (128, 32, 16, None):
        assert_same(ops.to_type(x.cuda(), *kind, group, at), scaled.fake_quantize(x, *kind, group, at))  # fmt: skip
        s = reference.scale(x, kind[2], group) * 0.7
        y, mask = ops.rounded_within(x.cuda(), s.cuda(), *kind, group, kind[2], at)
        expected, inside = scaled.rounded_within(x, s, *kind, group, kind[2], at)
        assert_same(y, expected)
        assert torch.equal(mask.cpu(), inside)
    if kind[2] < numbers.WIDE:
        assert_same(ops.mx(x.cuda(), *kind, 32, at), blocks.mx(x, *kind, 32, at))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outer", [None, 128, 0])
@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("at", [None, AT])
def test_nvfp4(
    dtype: torch.dtype, outer: int | None, floored: bool, at: tuple[int, int] | None
) -> None:
    for x in (wild(dtype), wild(dtype)[10:60]):  # the second one is finite
        assert_same(ops.nvfp4(x.cuda(), 16, outer, floored, at), blocks.nvfp4(x, 16, outer, floored, at))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [128, 16, None])
def test_zero_points_and_types_per_member(dtype: torch.dtype, group: int | None) -> None:
    for n in (3, 15, 255):
        assert_same(ops.asymmetric(wild(dtype).cuda(), n, group), asymmetric.fake_quantize(wild(dtype), n, group))  # fmt: skip
    x, types = normal(3, 8, 128).to(dtype), scaled.table([TYPES[k] for k in ("e4m3", "int3", "e2m1")])  # fmt: skip
    assert_same(ops.to_types(x.cuda(), types.cuda(), group), scaled.fake_quantize_members(x, types, group))  # fmt: skip


@pytest.mark.parametrize("block", [16, 32, 64, 128])
def test_rotation(block: int) -> None:
    """Sums in another order: to fp32's precision."""
    x = normal(64, 256)
    assert (ops.rotated(x.cuda(), block).cpu() - hadamard.rotated(x, block)).abs().max() <= 2e-6
