"""What Slurm's commands say, read; what they are told. No Slurm is needed."""

from pathlib import Path
from typing import Any

import pytest

from precisionlaws.config import ConfigError
from precisionlaws.sweep.engine import Refused
from precisionlaws.sweep.slurm import queue
from precisionlaws.sweep.slurm.queue import Silent, Task


def test_the_last_job_of_every_task_is_what_counts(fake: Any) -> None:
    fake.says(
        "squeue",
        "5|N/A|RUNNING|None|somebody's\n"
        "8|0|PENDING|Priority|demo-1-0\n8|1|RUNNING|None|demo-1-0\n"
        "7|0|NODE_FAIL|NodeDown|demo-1-0\n9|0|RUNNING|None|other-2-0\n9|3|RUNNING|a|b|odd|name\n",
    )
    assert queue.tasks({"demo-1-0"}) == [
        Task(8, 0, "PENDING", "Priority", "demo-1-0"),
        Task(8, 1, "RUNNING", "None", "demo-1-0"),
    ]
    assert len(queue.tasks()) == 4
    assert Task(8, 1, "RUNNING", "None", "demo-1-0").id == "8_1"


@pytest.mark.parametrize(
    ("state", "live"),
    [
        ("PENDING", True), ("RUNNING", True), ("COMPLETING", True), ("REQUEUED", True), ("REQUEUE_HOLD", True),
        ("SUSPENDED", True), ("PREEMPTED", False), ("NODE_FAIL", False), ("TIMEOUT", False), ("CANCELLED", False),
        ("COMPLETED", False), ("FAILED", False), ("OUT_OF_MEMORY", False), ("BOOT_FAIL", False),
    ],
)  # fmt: skip
def test_states(state: str, live: bool) -> None:
    """A preempted job that will run again is shown as pending."""
    assert Task(1, 0, state, "None", "x").live is live


def test_silence_is_no_news(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.fails(
        "squeue",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
    )
    with pytest.raises(Silent, match="Unable to contact slurm controller"):
        queue.tasks()
    monkeypatch.setattr(queue, "SECONDS", 0.1)
    (fake.root / "squeue").write_text("#!/bin/sh\nexec sleep 20\n")
    with pytest.raises(Silent, match="squeue did not answer within"):
        queue.tasks()


def test_where_slurm_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="launcher=slurm needs squeue.*jobs script"):
        queue.tasks()


def test_arrays_are_bounded_by_whatever_bounds_them() -> None:
    assert queue.limit("MaxArraySize            = 11\nMaxJobCount             = 10000") == 11
    more = "\nSchedulerParameters     = bf_interval=1,max_array_tasks=5,sched_interval=1"
    assert queue.limit("MaxArraySize = 1001" + more) == 5
    assert queue.limit("nothing known") == 1001
    with pytest.raises(Refused, match="no job arrays"):
        queue.limit("MaxArraySize = 0")


def test_refusals_are_in_slurms_words(fake: Any) -> None:
    fake.fails("sbatch", "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified\n")  # fmt: skip
    with pytest.raises(Refused) as refused:
        queue.submit("job.sh")
    assert str(refused.value) == "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"  # fmt: skip
    assert not queue.full(refused.value)
    fake.fails("sbatch", "sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    with pytest.raises(Refused) as limit:
        queue.submit("job.sh")
    assert queue.full(limit.value)
    (fake.root / "sbatch.err").unlink()
    (fake.root / "sbatch").write_text("#!/bin/sh\n")  # a wrapper that says nothing is no success
    with pytest.raises(Refused, match="said nothing"):
        queue.submit("job.sh")


def test_ids_of_federations(fake: Any) -> None:
    (fake.root / "sbatch").write_text("#!/bin/sh\necho '123;cluster'\n")
    assert queue.submit("job.sh") == 123


def test_a_job_that_submits_does_not_pass_on_its_own_resources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"SLURM_JOB_ID": "1", "SLURM_MEM_PER_CPU": "9", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert {k: v for k, v in queue.environment().items() if k in own} == {"SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a"}  # fmt: skip
    monkeypatch.delenv("SLURM_JOB_ID")
    assert queue.environment()["SLURM_MEM_PER_CPU"] == "9"


def test_many_are_cancelled_in_several_calls(fake: Any) -> None:
    queue.cancel(range(1201))
    assert [len(c.split()) for c in fake.calls("scancel")] == [500, 500, 201]
    queue.cancel([])
    assert len(fake.calls("scancel")) == 3
