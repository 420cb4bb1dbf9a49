"""GPT-2: pre-norm blocks of LayerNorm, attention with learned positions, and a GELU MLP, with biases.

Radford et al. 2019, and their source (openai/gpt-2, src/model.py). Q, K and V are three matrices of a
block, as they are three tensors to a quantizer.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from precisionlaws.config import ranged
from precisionlaws.models.base import Matrix, Model, Size

if TYPE_CHECKING:
    from precisionlaws.models.parts import Decoder

GELU = {"tanh": "tanh", "erf": "none"}  # ours -> torch's


@dataclass(frozen=True, kw_only=True)
class Gpt(Model):
    SHORT: ClassVar[str] = "gpt"
    hidden: int | None = ranged(1)  # null: mlp_ratio * width, to the nearest multiple of 16
    mlp_ratio: float = ranged(0.01)
    gelu: Literal["tanh", "erf"]
    norm_eps: float = ranged(0)
    tied: bool  # embedding and head share one matrix

    @property
    def one_table(self) -> bool:
        return self.tied

    def inactive(self) -> set[str]:
        return set() if self.hidden is None else {"mlp_ratio"}

    def resolved(self, size: Size) -> "Gpt":
        return replace(self, hidden=self.inner(size))

    def inner(self, size: Size) -> int:
        """Hidden width of the MLP. Groups of 16 must divide every reduced axis."""
        return self.hidden or 16 * max(1, round(self.mlp_ratio * size.width / 16))

    def matrices(self, size: Size) -> tuple[Matrix, ...]:
        C, F = size.width, self.inner(size)
        shapes = {f"attn.{name}": (C, C) for name in "qkvo"}
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
        return biases + norms + context * C

    def mixing_flops(self, size: Size, context: int) -> int:
        # q·k and p·v over the whole square: the convention of torch's FlopCounterMode
        return size.depth * 2 * 2 * context * size.width

    def build(self, size: Size, vocab: int, context: int) -> "Decoder":
        from precisionlaws.models import parts

        C, L, F, eps = size.width, size.depth, self.inner(size), self.norm_eps
        blocks = [
            parts.Block(
                parts.LayerNorm(C, eps),
                parts.Attention(C, size.heads, size.heads, L, bias=True),
                parts.LayerNorm(C, eps),
                parts.GeluMLP(C, F, L, GELU[self.gelu]),
            )
            for _ in range(L)
        ]
        head = None if self.tied else parts.Linear(C, vocab)
        embed, positions = parts.Embedding(vocab, C), parts.Positions(context, C)
        return parts.Decoder(embed, blocks, parts.LayerNorm(C, eps), head, positions)
