"""Memory that is kept between steps."""

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import torch
from precisionlaws.training import heap

kept = heap.keep() if sys.argv[1] == "keep" else None
torch.set_num_threads(1)

def step():
    tensors = [torch.empty(3_000_000).fill_(i) for i in range(10)]
    return float(sum(t[0] for t in tensors))

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    assert step() == 45
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5)
"""


def faults(how: str) -> tuple[str, float]:
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)  # fmt: skip
    kept, count = done.stdout.split()
    return kept, float(count)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is the C library of Linux")
def test_pages_stay_from_step_to_step() -> None:
    kept, few = faults("keep")
    if kept == "False":
        pytest.skip("no glibc here")
    _, many = faults("free")
    assert few < 0.05 * many  # 120 MB a step are 29,000 pages of 4 KiB


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from precisionlaws.training import heap

    monkeypatch.setattr(sys, "platform", "darwin")
    assert heap.keep() is False
