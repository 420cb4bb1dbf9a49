"""Which attention a run is trained with."""

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.models.attention_kernels import LONGEST, SHORTEST, kernel_of, scores_kept
from precisionlaws.run import attention_of, compose


@pytest.mark.parametrize(
    ("context", "dtype", "device", "compile", "kernel"),
    [
        (256, "float32", "cpu", False, "blocks"),
        (SHORTEST - 1, "float32", "cpu", False, "sdpa"),
        (LONGEST + 1, "float32", "cpu", False, "sdpa"),
        (256, "float32", "cuda", False, "sdpa"),
        (256, "float32", "cpu", True, "sdpa"),
        (256, "bfloat16", "cpu", False, "sdpa"),
        (256, "float64", "cpu", False, "sdpa"),
    ],
)
def test_auto_is_blocks_where_they_pay(
    context: int, dtype: str, device: str, compile: bool, kernel: str
) -> None:
    assert kernel_of("auto", context, dtype, device, compile) == kernel
    assert kernel_of("sdpa", context, dtype, device, compile) == "sdpa"


def test_what_is_asked_for_is_had_or_refused() -> None:
    assert kernel_of("blocks", 2048, "float64", "cpu") == "blocks"
    for dtype, device, compile in (("float32", "cuda", False), ("bfloat16", "cpu", False), ("float32", "cpu", True)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"exec\.attention=blocks .* here is device="):
            kernel_of("blocks", 256, dtype, device, compile)


def test_a_model_without_causal_attention_has_no_choice() -> None:
    assert attention_of(compose(["data.context=256"]), "auto", "cpu") == "blocks"
    assert attention_of(compose(["data.context=256", "model=hydra_ssm"]), "auto", "cpu") == "sdpa"


def test_scores_that_are_kept() -> None:
    assert scores_kept("sdpa", 256) == 0
    assert (
        scores_kept("blocks", 256) == (32 + 256) / 2
    )  # blocks of 32: (1 + ... + 8) / 8 of 32 · 256
