"""Llama: pre-norm blocks of rotary (grouped-query) attention and SwiGLU, without biases.

Touvron et al. 2023 (arXiv:2302.13971); grouped queries: Ainslie et al. 2023 (arXiv:2305.13245); norms of
queries and keys, per head and before the rotation, as in Qwen 3: Henry et al. 2020 (arXiv:2010.04245).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ConfigError, neutral, ranged
from precisionlaws.models.base import Matrix, Model, Size
from precisionlaws.models.own import BLOCKS

if TYPE_CHECKING:
    from precisionlaws.models.parts import Decoder


@dataclass(frozen=True, kw_only=True)
class Llama(Model):
    SHORT: ClassVar[str] = "llama"
    PARAMETRIZED: ClassVar[bool] = True
    kv_heads: int | None = ranged(1)  # null: heads
    hidden: int | None = ranged(1)  # null: mlp_ratio * width, to the nearest multiple of 16
    mlp_ratio: float = ranged(0.01)
    rope_base: float = ranged(1)
    norm_eps: float = ranged(0)
    tied: bool  # embedding and head share one matrix
    qk_norm: bool = neutral(False)
    activation: Literal["silu", "gelu", "relu", "relu2"] = neutral("silu")  # of the gate

    @property
    def one_table(self) -> bool:
        return self.tied

    def inactive(self) -> set[str]:
        return set() if self.hidden is None else {"mlp_ratio"}

    @property
    def own(self) -> tuple[str, ...]:
        return (BLOCKS,)

    def resolved(self, size: Size) -> "Llama":
        """Raises: ConfigError if heads and kv_heads do not go together."""
        kv_heads = self.kv_heads or size.heads
        if size.heads % kv_heads:
            raise ConfigError(f"kv_heads must divide heads={size.heads}, got {kv_heads}")
        if size.head_dim % 2:
            raise ConfigError(f"heads must leave an even width per head, got {size.head_dim}")
        # Groups of 16 must divide every reduced axis.
        hidden = self.hidden or 16 * max(1, round(self.mlp_ratio * size.width / 16))
        return replace(self, kv_heads=kv_heads, hidden=hidden)

    def dims(self, size: Size) -> tuple[int, int]:
        """(width of K and of V, hidden width of the MLP)"""
        model = self.resolved(size)
        assert model.kv_heads
        assert model.hidden
        return model.kv_heads * size.head_dim, model.hidden

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        C, (kv, F) = size.width, self.dims(size)
        shapes = {
            "attn.q": (C, C),
            "attn.k": (kv, C),
            "attn.v": (kv, C),
            "attn.o": (C, C),
            "mlp.gate": (F, C),
            "mlp.up": (F, C),
            "mlp.down": (C, F),
        }
        return tuple(
            (f"blocks.{i}.{name}", *shape)
            for i in range(size.depth)
            for name, shape in shapes.items()
        )

    def other(self, size: Size, vocab: int, context: int) -> int:
        heads = 2 * size.depth * size.head_dim * self.qk_norm
        return heads + (2 * size.depth + 1) * size.width  # two norms a block and the last one

    def mixing_flops(self, size: Size, context: int) -> int:
        # q·k and p·v over the whole square: the convention of torch's FlopCounterMode
        return size.depth * 2 * 2 * context * size.width

    def build(self, size: Size, vocab: int, context: int) -> "Decoder":
        from precisionlaws.models import attention, parts

        C, (kv, F), eps = size.width, self.dims(size), self.norm_eps
        D = size.head_dim
        q_rope = attention.Rope(D, size.heads, context, self.rope_base)
        k_rope = attention.Rope(D, kv // D, context, self.rope_base)
        norm, act = eps if self.qk_norm else None, parts.ACTIVATIONS[self.activation]
        blocks = [
            parts.Block(
                parts.RMSNorm(C, eps),
                attention.Attention(
                    C, size.heads, kv // D, size.depth, (q_rope, k_rope), qk_norm=norm
                ),
                parts.RMSNorm(C, eps),
                parts.GatedMLP(C, F, size.depth, act),
            )
            for _ in range(size.depth)
        ]
        head = None if self.tied else parts.Linear(C, vocab)
        return parts.Decoder(parts.Embedding(vocab, C), blocks, parts.RMSNorm(C, eps), head)
