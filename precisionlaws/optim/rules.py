"""Rules for learning rate and batch, by N.

Up to 1M, measured here. One batch size for every N and D of a study, because a batch that grows with
N is a confound: 1,024 tokens. lr = 0.48 / width: under Adam the best rate of hidden matrices falls as
1 / width when their start has variance 1 / fan_in (Yang et al. 2022, arXiv:2203.03466, table 8). The
constant is from a scan over factors of two (1,024 tokens a step, widths 16, 32 and 48, at 16 bits and
at 3, because a rate tuned at 16 bits alone inflates low-bit damage): at D = 500k it is best, or .0004
nats from best, in all six cells; at 125k best in five, and .02 from best in the sixth.

Above, OLMo-core's ladder (allenai/OLMo-core, WSDSChinchillaRunConfigurator, after Porian et al. 2024,
arXiv:2406.19146): B = 327,680 (N / 108M)^(2/3) tokens, here to the nearest power of two, and
lr = 0.0047 (N / 108M)^(-1/3), halved for schedules with a stable phase (the default here; under a
cosine twice the rate may be better). To another batch, the rounded one or one that is asked for, the
rate goes with sqrt(B), as Adam's does (Malladi et al. 2022, arXiv:2205.10330): lr ~ N^(-2/3) sqrt(B).

At N = 1M and 1,024 tokens the two rates are 0.0033 and 0.0030, within what the scan can tell apart.
But the batch jumps there, to 16,384 tokens, and the rate with it: a study across 1M sets batch_tokens.
"""

from math import log2, sqrt

SMALL = 1_000_000  # parameters up to which the first pair of rules holds
LR_TIMES_WIDTH = 0.48
SMALL_BATCH = 1024  # tokens

REFERENCE = 108_000_000  # parameters at which the ladder's numbers stand
REFERENCE_LR = 0.0047 / 2
REFERENCE_BATCH = 327_680  # tokens


def ladder_batch(N: int) -> float:
    """Tokens per step by the ladder's rule, not rounded."""
    return REFERENCE_BATCH * (N / REFERENCE) ** (2 / 3)


def ladder_lr(N: int, batch: int) -> float:
    return REFERENCE_LR * (N / REFERENCE) ** (-1 / 3) * sqrt(batch / ladder_batch(N))


def rate(N: int, width: int, batch: int) -> float:
    """The peak learning rate of AdamW on a Llama. batch: tokens per step."""
    return LR_TIMES_WIDTH / width if N <= SMALL else ladder_lr(N, batch)


def batch_tokens(N: int) -> int:
    """Tokens per step of a model of N parameters."""
    return SMALL_BATCH if N <= SMALL else 2 ** round(log2(ladder_batch(N)))
