"""Hydra: bidirectional state-space blocks (Hwang et al. 2024, arXiv:2407.09941).

A block projects, convolves, mixes positions by a matrix per head, and gates: y = M x, where M is
quasiseparable: one semiseparable matrix (the scan of a Mamba-2) below the diagonal, another above it, and
a diagonal of its own, (x W_D + D), which is not of low rank. Any other structured matrix can stand in its
place (`mixer=`), which is how attention and state-space models are compared on equal terms: mixers.py.

It sees both sides, so it is no causal language model: it is trained to fill in hidden tokens (Devlin et
al. 2019, arXiv:1810.04805; all that are chosen are hidden, because leaving some as they are gains nothing:
Wettig et al. 2023, arXiv:2202.08005), 30% of them in training and 15% where the loss is measured, as its
authors do. Its losses are of another objective than those of causal models, and never fitted with them.
It has no KV cache. B, C, dt, x and z come from one matrix, whose input is `in_qkv`; `in_mlp` is what the
diagonal reads; `in_o` the input of the last matrix.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, ranged
from precisionlaws.models.base import Matrix, Model, Size

if TYPE_CHECKING:
    from precisionlaws.models.parts import Decoder

# Positions whose mixing is written out; scans carry a state from one chunk to the next. With 64 a step takes 1.5
# times as long on a CPU.
CHUNK = 32


@dataclass(frozen=True)
class Dims:
    """A mixing block at a size. features: channels a mixer reads that are convolved; raw: that are not."""

    inner: int
    heads: int
    state: int
    features: int
    raw: int


@dataclass(frozen=True, kw_only=True)
class HydraSsm(Model):
    SHORT: ClassVar[str] = "hydra_ssm"
    objective: ClassVar[str] = "masked"
    CACHE: ClassVar[bool] = False
    mixer: Literal["quasiseparable", "semiseparable", "attention", "toeplitz", "vandermonde"]
    layers: int | None = ranged(1, 1024)
    expand: int = ranged(1, 64)
    head_dim: int | None = ranged(1)
    state: int | None = ranged(1)
    groups: int = ranged(1)
    conv: int = ranged(1, 255)
    norm_eps: float = ranged(0)
    mask: float = ranged(0.01, 0.99)
    mask_eval: float = ranged(0.01, 0.99)

    def rules(self) -> None:
        if self.conv % 2 == 0:
            raise ConfigError(f"conv must be odd, as it looks to both sides, got {self.conv}")

    def inactive(self) -> set[str]:
        return set() if self.mixer in ("quasiseparable", "semiseparable") else {"groups"}

    def resolved(self, size: Size) -> "HydraSsm":
        """Raises: ConfigError if heads and groups do not go together."""
        head_dim, inner = self.head_dim or size.head_dim, self.expand * size.width
        if inner % head_dim:
            raise ConfigError(f"head_dim must divide expand * width={inner}, got {head_dim}")
        if (heads := inner // head_dim) % self.groups and "groups" not in self.inactive():
            raise ConfigError(f"groups must divide the {heads} heads, got {self.groups}")
        layers, state = self.layers or 2 * size.depth, self.state or size.head_dim
        return replace(self, head_dim=head_dim, layers=layers, state=state)

    def dims(self, size: Size) -> Dims:
        model, inner = self.resolved(size), self.expand * size.width
        assert model.head_dim
        assert model.state
        H, N, G = inner // model.head_dim, model.state, self.groups
        features, raw = {
            "quasiseparable": (4 * G * N, 2 * H),  # B and C of both directions; steps
            "semiseparable": (2 * G * N, H),
            "attention": (2 * H * N, 0),  # queries and keys
            "vandermonde": (2 * H * N, 0),
            "toeplitz": (2 * H, 0),  # a number per distance, to each side
        }[self.mixer]
        return Dims(inner, H, N, features, raw)

    def depth(self, size: Size) -> int:
        return self.resolved(size).layers or 0

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        d, C = self.dims(size), size.width
        shapes = {
            "in_proj": (2 * d.inner + d.features + d.raw, C),
            "skip": (d.heads, d.inner),
            "out_proj": (C, d.inner),
        }
        return tuple(
            (f"blocks.{i}.mixing.{name}", *shape)
            for i in range(self.depth(size))
            for name, shape in shapes.items()
        )

    def other(self, size: Size, vocab: int, context: int) -> int:
        d, C = self.dims(size), size.width
        scan = 2 * d.heads if d.raw else 0  # dt_bias, A_log
        convolution = (self.conv + 1) * (d.inner + d.features)
        block = convolution + scan + d.heads + d.inner + C  # D, and two norms
        return self.depth(size) * block + C + C  # the last norm; the vector of a hidden token

    def mixing_flops(self, size: Size, context: int) -> int:
        d, T = self.dims(size), context
        if d.raw:
            chunks = -(-T // CHUNK)
            Q, ways = -(-T // chunks), 2 if self.mixer == "quasiseparable" else 1
            within = chunks * Q * Q * 2 * (self.groups * d.state + d.inner)
            carried = (chunks - 1) * Q * 2 * 2 * d.state * d.inner  # into a state and out of it
            return self.depth(size) * ways * (within + carried) // T
        scores = 2 * T * d.heads * d.state if self.mixer == "attention" else 0
        return self.depth(size) * (scores + 2 * T * d.inner)

    def hidden_share(self, training: bool) -> float:
        return self.mask if training else self.mask_eval

    def build(self, size: Size, vocab: int, context: int) -> "Decoder":
        from precisionlaws.models import mixers, parts

        d, C, eps = self.dims(size), size.width, self.norm_eps
        head_dim = d.inner // d.heads
        blocks = [
            mixers.Block(
                parts.RMSNorm(C, eps),
                mixers.Mixing(
                    C,
                    head_dim,
                    mixers.mixer_of(self.mixer, d.heads, d.state, self.groups),
                    d,
                    self.conv,
                    eps,
                    self.depth(size),
                ),
            )
            for _ in range(self.depth(size))
        ]
        embed = mixers.MaskedEmbedding(vocab, C)
        return mixers.Encoder(embed, blocks, parts.RMSNorm(C, eps), parts.Linear(C, vocab))
