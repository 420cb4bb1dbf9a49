"""GPT-2: pre-norm blocks of LayerNorm, attention with learned positions, and a GELU MLP, with biases.

Radford et al. 2019, and their source (openai/gpt-2, src/model.py); GELU: Hendrycks and Gimpel 2016
(arXiv:1606.08415). Q, K and V are three matrices of a block, as they are three tensors to a quantizer.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, neutral, ranged
from precisionlaws.models.base import Matrix, Model, Size
from precisionlaws.models.own import BLOCKS, GELU

if TYPE_CHECKING:
    from precisionlaws.models.parts import Decoder


@dataclass(frozen=True, kw_only=True)
class Gpt(Model):
    SHORT: ClassVar[str] = "gpt"
    PARAMETRIZED: ClassVar[bool] = True
    hidden: int | None = ranged(1)  # null: mlp_ratio * width, to the nearest multiple of 16
    mlp_ratio: float = ranged(0.01)
    gelu: Literal["tanh", "erf"]
    norm_eps: float = ranged(0)
    tied: bool  # embedding and head share one matrix
    kv_heads: int | None = ranged(1, None, neutral=None)  # null: heads
    qk_norm: bool = neutral(False)
    activation: Literal["gelu", "silu", "relu", "relu2"] = neutral("gelu")

    @property
    def one_table(self) -> bool:
        return self.tied

    @property
    def own(self) -> tuple[str, ...]:
        return (BLOCKS, GELU) if self.tanh else (BLOCKS,)

    @property
    def tanh(self) -> bool:
        return self.activation == "gelu" and self.gelu == "tanh"

    def inactive(self) -> set[str]:
        off = set() if self.hidden is None else {"mlp_ratio"}
        return off if self.activation == "gelu" else off | {"gelu"}

    def resolved(self, size: Size) -> "Gpt":
        """Raises: ConfigError if heads and kv_heads do not go together."""
        kv_heads = self.kv_heads or size.heads
        if size.heads % kv_heads:
            raise ConfigError(f"kv_heads must divide heads={size.heads}, got {kv_heads}")
        shared = None if kv_heads == size.heads else kv_heads
        return replace(self, hidden=self.inner(size), kv_heads=shared)

    def inner(self, size: Size) -> int:
        """Hidden width of the MLP. Groups of 16 must divide every reduced axis."""
        return self.hidden or 16 * max(1, round(self.mlp_ratio * size.width / 16))

    def keys(self, size: Size) -> int:
        """Width of K and of V."""
        return (self.resolved(size).kv_heads or size.heads) * size.head_dim

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        C, F, kv = size.width, self.inner(size), self.keys(size)
        shapes = {"attn.q": (C, C), "attn.k": (kv, C), "attn.v": (kv, C), "attn.o": (C, C)}
        shapes |= {"mlp.up": (F, C), "mlp.down": (C, F)}
        return tuple(
            (f"blocks.{i}.{name}", *shape)
            for i in range(size.depth)
            for name, shape in shapes.items()
        )

    def other(self, size: Size, vocab: int, context: int) -> int:
        C, matrices = size.width, self.matrices(size)
        biases = sum(out for _, out, _ in matrices)
        norms = 2 * C * (2 * size.depth + 1)  # gain and shift of two norms a block and of the last
        heads = 2 * size.depth * size.head_dim * self.qk_norm
        return biases + norms + heads + context * C

    def mixing_flops(self, size: Size, context: int) -> int:
        # q·k and p·v over the whole square: the convention of torch's FlopCounterMode
        return size.depth * 2 * 2 * context * size.width

    def build(self, size: Size, vocab: int, context: int) -> "Decoder":
        from precisionlaws.models import attention, parts

        C, L, F, eps = size.width, size.depth, self.inner(size), self.norm_eps
        kv_heads, norm = self.keys(size) // size.head_dim, eps if self.qk_norm else None
        act = parts.GeluTanh() if self.tanh else parts.ACTIVATIONS[self.activation]
        blocks = [
            parts.Block(
                parts.LayerNorm(C, eps),
                attention.Attention(C, size.heads, kv_heads, L, bias=True, qk_norm=norm),
                parts.LayerNorm(C, eps),
                parts.MLP(C, F, L, act),
            )
            for _ in range(L)
        ]
        head = None if self.tied else parts.Linear(C, vocab)
        embed, positions = parts.Embedding(vocab, C), parts.Positions(context, C)
        return parts.Decoder(embed, blocks, parts.LayerNorm(C, eps), head, positions)
