"""torch.compile: the same step, and one line when something is missing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from precisionlaws.config import ConfigError, build
from precisionlaws.overrides import option
from precisionlaws.run import Exec, compose
from precisionlaws.store import Store
from precisionlaws.training.compiler import lacking
from precisionlaws.training.facts import exec_facts
from precisionlaws.training.loop import backward
from precisionlaws.training.state import fresh
from precisionlaws.training.unit import train_runs

EXEC: Exec = build(option("exec", "default") | {"device": "cpu"}, Exec)  # type: ignore[assignment]


def test_a_missing_compiler_is_named_before_anything_is_trained(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = (
        r"^exec.compile=true needs a C\+\+ compiler: 'no-such-compiler' is not on the PATH; "
        r"install g\+\+ or set CXX$"
    )
    with pytest.raises(ConfigError, match=line):
        train_runs([compose(tiny)], Store(tmp_path), replace(EXEC, compile=True))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/g++")
    assert str(lacking("cpu")).startswith("Python.h: ")


def test_it_is_a_fact_of_the_row(tiny: list[str]) -> None:
    run = compose(tiny)
    assert EXEC.compile is False
    assert exec_facts(EXEC, run)["exec.compile"] is False
    assert exec_facts(replace(EXEC, compile=True), run)["exec.compile"] is True


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.skipif(lacking("cpu") is not None, reason=f"torch.compile needs {lacking('cpu')}")
@pytest.mark.parametrize(
    "what",
    [["seed=0"], ["model=gpt"], ["quant=low_precision"], ["quant=low_precision", "micro_batch=2"]],
)
def test_one_step_equals_eager(tiny: list[str], what: list[str]) -> None:
    run = compose([*tiny, *what])
    ids = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(0))
    eager, made = fresh(run, "cpu"), fresh(run, "cpu", compile=True)
    a, b = (backward(s, ids, run.micro_batch).item() for s in (eager, made))
    assert a == pytest.approx(b, abs=1e-5)
    for (name, p), q in zip(eager.model.named_parameters(), made.model.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert (p.grad - q.grad).norm() <= 1e-5 * p.grad.norm() + 1e-7, name
