"""The parts that models are built of, and how they are initialized.

Nothing here knows of bits. Where a tensor role passes, a part calls an identity `Seam`: `in_qkv, in_o,
in_mlp, in_down` (inputs of linears: one activation that feeds several is passed once), `k_cache` (after
the rotation, as a cache stores it) and `v_cache`. Quantization and calibration replace or watch these.

Every part takes a leading member axis: with weights (E, out, in) and ids (E, B, T), E models of equal
shape run as one batch (`stack`). Small models on a CPU are bound by dispatch and by memory passes, so
sums over short rows and chains of elementwise operations have hand-written backward passes.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from precisionlaws.models.own import GELU

KEPT = ("embed", "head", "lm_head")  # last names of what is never quantized


class Seam(nn.Module):
    """The identity, at a place where a quantizer may stand. length: of the axis a dot product reduces."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return x


def unset(*shape: int) -> nn.Parameter:
    """NaN until `initialize` or a checkpoint: a model that was forgotten says so in its first loss."""
    return nn.Parameter(torch.full(shape, math.nan))


def project(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) by matrix (out, in), or x (E, ..., in) by matrix (E, out, in) -> (..., out)."""
    if matrix.dim() == 2:
        return F.linear(x, matrix, bias)
    rows = x.reshape(matrix.shape[0], -1, x.shape[-1])
    if bias is None:
        y = torch.bmm(rows, matrix.mT)
    else:
        y = torch.baddbmm(bias.unsqueeze(1), rows, matrix.mT)
    return y.view(*x.shape[:-1], -1)


def spread(vector: Tensor, axes: int) -> Tensor:
    """(n) as it is; (E, n) as (E, 1, ..., n) with so many axes."""
    return vector if vector.dim() == 1 else vector.view(len(vector), *[1] * (axes - 2), -1)


class Own(nn.Module):
    """What has a way of its own beside torch's; `choose` says whether training steps take it."""

    NAME: ClassVar[str]  # in models/own.py
    own: bool = False


def choose(model: nn.Module, parts: str) -> None:
    """Take those of our own parts that `parts` names, "torch" for none; in training, as evaluation is torch's."""
    for module in model.modules():
        if isinstance(module, Own):
            module.own = module.NAME in parts.split()


class Part(nn.Module):
    """What owns parameters: ones at the start, biases zeros."""

    def start(self, leaf: str, shape: torch.Size, seed: int, name: str) -> Tensor:
        """The first value of the parameter `leaf`, a function of (seed, its full name, its shape)."""
        return torch.zeros(shape) if leaf == "bias" else torch.ones(shape)


class Drawn(Part):
    """Starts from normal numbers of deviation `std`."""

    std: float

    def start(self, leaf: str, shape: torch.Size, seed: int, name: str) -> Tensor:
        if leaf == "bias":
            return super().start(leaf, shape, seed, name)
        return self.std * normal(seed, name, shape)


class Linear(Drawn):
    """A matrix, N(0, gain² / in) at the start, and maybe a bias, zero at the start."""

    bias: nn.Parameter | None

    def __init__(self, width: int, out: int, gain: float = 1.0, bias: bool = False) -> None:
        super().__init__()
        self.weight = unset(out, width)
        self.register_parameter("bias", unset(out) if bias else None)
        self.std = gain / math.sqrt(width)

    def matrix(self) -> Tensor:
        """The matrix as the forward pass uses it."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.matrix(), self.bias)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}"


class Embedding(Drawn):
    """Rows of a table; ids (..., T) -> (..., T, width)."""

    def __init__(self, vocab: int, width: int, std: float = 1.0) -> None:
        super().__init__()
        self.weight = unset(vocab, width)
        self.std = std

    def forward(self, ids: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            return F.embedding(ids, self.weight)
        E, vocab, width = self.weight.shape
        first = torch.arange(E, device=ids.device).view(-1, *[1] * (ids.dim() - 1)) * vocab
        return F.embedding(ids + first, self.weight.view(E * vocab, width))


class Positions(Drawn):
    """A learned vector per position, added to the embedding; x (..., T, width)."""

    def __init__(self, context: int, width: int, std: float = 1.0) -> None:
        super().__init__()
        self.weight = unset(context, width)
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        T, context = x.shape[-2], self.weight.shape[-2]
        fits(T, context)
        rows = self.weight[..., :T, :]
        return x + (rows if rows.dim() == 2 else rows.unsqueeze(1))


def fits(length: int, context: int) -> None:
    if length > context:
        raise ValueError(f"sequences of {length} tokens are longer than the context of {context}")


class LayerNorm(Part):
    """(x - mean) / deviation * weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias = unset(width), unset(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        w, b, width = self.weight, self.bias, x.shape[-1:]
        if w.dim() == 1:
            return F.layer_norm(x, width, w, b, self.eps)
        w, b = spread(w, x.dim()), spread(b, x.dim())
        return F.layer_norm(x, width, None, None, self.eps) * w + b


class RMSNorm(Part):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = unset(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        w = spread(self.weight, x.dim())
        # (Autocast would round the product that sums up a row.)
        if (
            x.device.type != "cpu"
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
        ):
            return F.rms_norm(x, x.shape[-1:], None, self.eps) * w
        return _RMSNorm.apply(x, w, self.eps)  # type: ignore[return-value]


class _RMSNorm(torch.autograd.Function):
    """5 times as fast as F.rms_norm, forward and backward, on short rows on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        mean = x.new_full((x.shape[-1], 1), 1 / x.shape[-1])  # a product: sums over rows are slow
        r = ((x * x) @ mean).add_(eps).rsqrt_()  # (..., 1)
        unit = x * r
        ctx.save_for_backward(unit, r, w)
        return unit * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, r, w = ctx.saved_tensors
        g = grads[0]
        p = g * unit
        dot = (p * w).sum(-1, keepdim=True) if w.dim() > 1 else p @ w.unsqueeze(-1)
        dx = (g * w).addcmul_(unit, dot, value=-1 / unit.shape[-1]).mul_(r)
        return dx, p.sum_to_size(w.shape), None


def relu2(x: Tensor) -> Tensor:
    """So et al. 2021 (arXiv:2109.08668)."""
    return F.relu(x).square()


class GeluTanh(Own):
    """GELU, approximated by tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""

    NAME = GELU

    def forward(self, x: Tensor) -> Tensor:
        if self.own and torch.is_grad_enabled():
            return _GeluTanh.apply(x)  # type: ignore[return-value]
        return F.gelu(x, approximate="tanh")


class _GeluTanh(torch.autograd.Function):
    """Takes .5 to .8 of the time of F.gelu, forward and backward, on a CPU: one sigmoid instead of two tanh.

    x (1 + tanh u) / 2 = x σ(z), z = 2u = 2√(2/π) (x + .044715 x³). Its derivative, σ + x z' σ (1 - σ) with
    x z' = 3z - 4√(2/π) x, is what is kept for the backward pass in place of x.
    """

    CUBE, TWICE = 0.044715, 2 * math.sqrt(2 / math.pi)

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        cube, twice = _GeluTanh.CUBE, _GeluTanh.TWICE
        z = x * x
        torch.addcmul(x, x, z, value=cube, out=z).mul_(twice)
        s = z.sigmoid()
        y = x * s
        rise = z.sub_(x, alpha=2 / 3 * twice)  # x z' / 3
        torch.ops.aten.sigmoid_backward.grad_input(rise, s, grad_input=rise)
        ctx.save_for_backward(s.add_(rise, alpha=3))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return grads[0] * slope


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": relu2,
}


class GatedMLP(nn.Module):
    """down(act(gate x) * up x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int, depth: int, act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width, gain=1 / math.sqrt(2 * depth))
        self.in_mlp, self.in_down = Seam(width), Seam(hidden)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_mlp(x)
        return self.down(self.in_down(self.act(self.gate(x)) * self.up(x)))


class MLP(nn.Module):
    """down(act(up x)), with biases."""

    def __init__(self, width: int, hidden: int, depth: int, act: Callable[[Tensor], Tensor]):
        super().__init__()
        self.up = Linear(width, hidden, bias=True)
        self.down = Linear(hidden, width, 1 / math.sqrt(2 * depth), bias=True)
        self.in_mlp, self.in_down = Seam(width), Seam(hidden)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.in_down(self.act(self.up(self.in_mlp(x)))))


class Block(nn.Module):
    """Pre-norm residual block."""

    branch: float = 1.0  # multiplies what its parts add to the stream. Parametrizations set it

    def __init__(self, norm: nn.Module, attn: nn.Module, mlp_norm: nn.Module, mlp: nn.Module):
        super().__init__()
        self.norm, self.attn, self.mlp_norm, self.mlp = norm, attn, mlp_norm, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = torch.add(x, self.attn(self.norm(x)), alpha=self.branch)
        return torch.add(x, self.mlp(self.mlp_norm(x)), alpha=self.branch)


class Decoder(nn.Module):
    """ids (B, T) -> logits (B, T, vocab); without a head, the embedding's table is the head.

    `compute`: the type that products of matrices are rounded to, by autocast; None: that of the
    parameters. What autocast leaves alone stays fp32: parameters, residual stream, norms, logits.
    """

    compute: torch.dtype | None = None
    output: float = 1.0  # multiplies the logits. Parametrizations set it

    def __init__(
        self,
        embed: Embedding,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        head: Linear | None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        self.embed, self.positions = embed, positions
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), norm, head
        if head is None:
            embed.std = 1 / math.sqrt(embed.weight.shape[-1])
        if positions is not None:
            positions.std = embed.std / 2  # as 0.01 beside 0.02 in GPT-2's source

    def forward(self, ids: Tensor) -> Tensor:
        if self.compute is None:
            return self.logits(ids)
        with torch.autocast(ids.device.type, self.compute):
            return self.logits(ids).float()

    def logits(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.positions is not None:
            x = self.positions(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.output != 1:
            x = x * self.output
        return project(x, self.embed.weight) if self.head is None else self.head(x)


def linears(
    model: nn.Module, keep: Sequence[str] = KEPT, shared: bool = False
) -> Iterator[tuple[str, Linear | nn.Linear]]:
    """The linears of the blocks by name: all but those whose last name is in `keep`.

    shared: a linear that stands in several places comes once for each.
    """
    for name, module in model.named_modules(remove_duplicate=not shared):
        if isinstance(module, (Linear, nn.Linear)) and name.rpartition(".")[2] not in keep:
            yield name, module


def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter as a function of (seed, its name, its shape) and of nothing else.

    So every bit width of a seed starts from the same numbers, on every device, in whatever order
    parameters are made. Raises: TypeError for a parameter that no part of ours owns.
    """
    owners = {n: m for n, m in model.named_modules() if isinstance(m, Part)}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if owner not in owners:
            raise TypeError(f"no rule initializes {name}: only parts of models.parts have one")
        with torch.no_grad():
            parameter.copy_(owners[owner].start(leaf, parameter.shape, seed, name))
    constrain(model)


def normal(seed: int, name: str, shape: torch.Size) -> Tensor:
    """Standard normal numbers of one parameter, drawn on the CPU in fp32."""
    digest = hashlib.sha256(f"{seed}/{name}/{tuple(shape)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator)


def constrain(model: nn.Module) -> None:
    """What a model does to its parameters after initialization and after every step, if anything."""
    if (own := getattr(model, "constrain", None)) is not None:
        own()


def stack(members: Sequence[nn.Module]) -> nn.Module:
    """A pack: E models of equal shape as one, ids (E, B, T) -> logits (E, B, T, vocab)."""
    pack = copy.deepcopy(members[0])
    for name, parameter in list(pack.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        values = torch.stack([m.get_parameter(name).detach() for m in members])
        setattr(pack.get_submodule(owner), leaf, nn.Parameter(values, parameter.requires_grad))
    return pack
