"""Estimates against what was measured, and prices against arithmetic."""

import pytest

from precisionlaws.costs import H100_PEAK, MFU, cpu_seconds, duration, gpu_hours
from precisionlaws.models.count import training_flops
from precisionlaws.run import compose

MEASURED = {  # tokens per second in training, seconds of an evaluation; one idle core
    "7k": ((130e3, 190e3), 0.30),
    "20k": ((85e3, 127e3), 0.55),
    "50k": ((60e3, 90e3), 0.70),
}


@pytest.mark.parametrize("size", MEASURED)
def test_a_cpu_core_is_as_fast_as_measured(size: str) -> None:
    run = compose([f"size={size}"])
    flops = training_flops(run.model, run.size, run.data.vocab, run.data.context, 1)
    low, high = MEASURED[size][0]
    assert low < 1024 / cpu_seconds(1024 * flops, 1, 0, flops) < high
    assert cpu_seconds(0, 0, 131_072, flops) == pytest.approx(MEASURED[size][1], rel=0.3)


def test_gpu_hours_are_flops_over_what_a_gpu_does() -> None:
    assert gpu_hours(H100_PEAK * MFU * 3600) == pytest.approx(1)
    assert gpu_hours(6 * 8e9 * 15e12) == pytest.approx(505_561, rel=1e-4)  # 8B on 15T tokens
    assert gpu_hours(1e21, 0.2) == 2 * gpu_hours(1e21, 0.4)


@pytest.mark.parametrize("mfu", [0.0, -1.0, 1.1, 40.0, float("nan")])
def test_an_mfu_is_a_share(mfu: float) -> None:
    with pytest.raises(ValueError, match="mfu must be above 0 and at most 1, got"):
        gpu_hours(1e18, mfu)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (95, "1.6 min"), (1200, "20 min"), (3.5 * 3600, "3.5 h"), (1e10, "115,741 d")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
