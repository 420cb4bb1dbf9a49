"""Nothing that is needed is ever removed, and nothing that is damaged goes unnamed."""

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from precisionlaws.cli import app
from precisionlaws.config import ConfigError, build
from precisionlaws.heldout import to_bytes
from precisionlaws.overrides import option
from precisionlaws.ptq.application import method_of
from precisionlaws.ptq.base import eval_id
from precisionlaws.run import Exec, RunConfig, compose, run_id, trunk_id
from precisionlaws.store import Store, load
from precisionlaws.sweep import upkeep
from precisionlaws.sweep.points import Point, nothing
from precisionlaws.sweep.quantize import quantize_run
from precisionlaws.sweep.recorded import record
from precisionlaws.sweep.upkeep import at_work, idle_trunks, removable, remove, verify
from precisionlaws.training.unit import train_runs

EXEC: Exec = build(option("exec", "default"), Exec)  # type: ignore[assignment]
OLD = time.time() - upkeep.OLD_SECONDS - 60


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[RunConfig]]:  # fmt: skip
    """Two runs of one trunk, the first with a PTQ point."""
    settings = ["data=text", f"data.path={text_file}", "data.context=32", "data.eval_tokens=1024", "size=7k", "batch_tokens=128", "lr_schedule.warmup=3"]  # fmt: skip
    runs = [compose([*settings, f"tokens={t}"]) for t in (2560, 5120)]
    store = Store(tmp_path_factory.mktemp("upkeep") / "s")
    train_runs(runs, store, EXEC)
    quantize_run(runs[0], [method_of("rtn", bits=3)], store, EXEC)
    return store, runs


@pytest.fixture
def store(trained: tuple[Store, list[RunConfig]], tmp_path: Path) -> Store:
    shutil.copytree(trained[0].root, tmp_path / "s")
    return Store(tmp_path / "s")


@pytest.fixture
def runs(trained: tuple[Store, list[RunConfig]]) -> list[RunConfig]:
    return trained[1]


def claim(store: Store, unit: str, **more: Any) -> None:
    store.claim(unit).parent.mkdir(exist_ok=True)
    note = {"host": "elsewhere", "pid": 1, "beat": 0, "time": time.time()} | more
    store.claim(unit).write_text(json.dumps(note))


def runs_command(*arguments: object, **more: Any) -> Any:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)], **more)


def old(path: Path, text: str = "x") -> Path:
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    return path


def test_a_healthy_store_has_no_findings(store: Store) -> None:
    assert list(verify(store)) == []
    done = runs_command("verify", store.root)
    assert (done.exit_code, done.stdout) == (0, "0 damaged\n")


def damage(store: Store, run: str, what: str) -> Path:
    """Damage one thing; the file that must be named."""
    folder = store.run(run)
    point = next((folder / "points").iterdir())
    if what == "checkpoint":
        path = folder / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:-4] + b"oops")
    elif what == "no checkpoint":
        (path := folder / "checkpoint.safetensors").unlink()
    elif what == "trunk":
        path = next(store.root.glob("trunks/*/*"))
        path.write_bytes(path.read_bytes()[:-1])
    elif what in ("loss", "newer", "another", "lacks"):
        change = {"loss": {"loss": None}, "newer": {"schema": 2}, "another": {"run_id": "b"}, "lacks": {"N": None}}  # fmt: skip
        path = folder / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change[what]))
    elif what == "held-out losses":
        (path := folder / "held_out.npy").write_bytes(to_bytes(np.array([[1.0, 2.0], [1.0, 2.5]])))
    elif what == "orphan":
        (folder / "result.json").unlink()
        path = point
    else:
        path = {"row": folder / "result.json", "config": folder / "config.yaml", "curve": folder / "metrics.jsonl", "point": point}[what]  # fmt: skip
        path.write_text(path.read_text()[:-9])
        if what == "config":
            path.write_text("run_id: another\n")
    return path


@pytest.mark.parametrize(
    "what",
    ["checkpoint", "no checkpoint", "trunk", "loss", "newer", "another", "lacks", "orphan", "row", "config", "curve", "point", "held-out losses"],
)  # fmt: skip
def test_damage_is_named(store: Store, runs: list[RunConfig], what: str) -> None:
    path = damage(store, run_id(runs[0]), what)
    assert [f.path for f in verify(store) if f.damaged] == [path]
    done = runs_command("verify", store.root)
    assert done.exit_code == 1
    assert f"damaged  {path}: " in done.stdout


def test_strangers_and_leftovers_are_named_and_do_no_harm(
    store: Store, runs: list[RunConfig]
) -> None:
    folder = store.run(run_id(runs[0]))
    (folder / "notes.txt").write_text("mine")
    (folder / "resume.safetensors").write_bytes(b"x")
    old(folder / ".result.json.abcd1234")
    (folder / ".result.json.fresh123").write_text("being written")
    claim(store, "unit", host=socket.gethostname(), pid=2**22 - 1)
    done = runs_command("verify", store.root, "--json")
    assert done.exit_code == 0
    found = {Path(f["path"]).name for f in json.loads(done.stdout)}
    assert found == {"notes.txt", "resume.safetensors", ".result.json.abcd1234", "unit.json"}
    assert runs_command("gc", store.root).exit_code == 0
    left = {p.name for p in folder.iterdir()}
    assert left >= {"notes.txt", ".result.json.fresh123", "result.json", "checkpoint.safetensors"}
    assert not left & {"resume.safetensors", ".result.json.abcd1234"}
    assert not store.claim("unit").exists()


def test_gc_keeps_what_unfinished_runs_start_from(store: Store, runs: list[RunConfig]) -> None:
    """Checkpoints at steps 16 and 32 of the trunk; a planned run leaves it at 48, another at 20."""
    trunk = store.trunk(trunk_id(runs[0]))
    assert {p.name for p in trunk.iterdir()} == {"step-16.safetensors", "step-32.safetensors"}
    frame = load(store.root)

    def needed() -> set[str]:
        return {p.name for p in trunk.iterdir()} - {f.path.name for f in idle_trunks(store)}

    assert needed() == set()
    early = method_of("rtn", bits=3, phase="stable")
    record(store, "early", (), [Point(run_id(runs[0]), eval_id(early), runs[0], early)])
    assert needed() == {"step-16.safetensors"}
    shutil.rmtree(store.root / "studies")
    longer = compose([*texts(runs[0]), "tokens=7680"])
    record(store, "longer", (), [Point(run_id(longer), "final", longer, nothing())])
    assert needed() == {"step-32.safetensors"}
    (store.root / "studies").rename(store.root / "forgotten")
    assert needed() == set()
    claim(store, trunk_id(runs[0]))
    assert needed() == {"step-16.safetensors", "step-32.safetensors"}
    store.claim(trunk_id(runs[0])).unlink()
    store.result(run_id(runs[1])).unlink()  # begun and not finished
    assert needed() == {"step-32.safetensors"}
    dry = runs_command("gc", store.root, "--dry-run")
    assert f"{trunk / 'step-16.safetensors'}: no unfinished run needs it" in dry.stdout
    assert "kB  " in dry.stdout
    assert (trunk / "step-16.safetensors").exists()
    assert "1 files" in runs_command("gc", store.root).stdout
    assert [p.name for p in trunk.iterdir()] == ["step-32.safetensors"]
    train_runs([runs[1]], store, EXEC)
    columns = ["run_id", "loss"]
    assert load(store.root)[columns].equals(frame[columns])
    runs_command("gc", store.root)
    assert not trunk.exists()
    assert load(store.root)[columns].equals(frame[columns])


def texts(run: RunConfig) -> list[str]:
    return ["data=text", f"data.path={run.data.path}", "data.context=32", "data.eval_tokens=1024", "size=7k", "batch_tokens=128", "lr_schedule.warmup=3"]  # type: ignore[attr-defined]  # fmt: skip


def test_a_removed_run_is_gone_whole_and_others_stay(store: Store, runs: list[RunConfig]) -> None:
    name = run_id(runs[0])
    done = runs_command("rm", store.root, name, input="n\n")
    assert done.exit_code == 1
    assert len(load(store.root)) == 3
    done = runs_command("rm", store.root, name, "--yes")
    assert "removed 1 runs and 0 PTQ points of others" in done.stdout
    assert load(store.root).run_id.tolist() == [run_id(runs[1])]
    assert [p.name for p in (store.root / "runs").iterdir()] == [run_id(runs[1])]


def test_points_can_go_without_their_run(store: Store) -> None:
    done = runs_command("rm", store.root, "--where", "P_post < 4", "--yes")
    assert "removed 0 runs and 1 PTQ points of others" in done.stdout
    assert load(store.root).eval_id.tolist() == ["final", "final"]
    assert runs_command("rm", store.root, "--where", "P_post < 4").stdout == "nothing to remove\n"


@pytest.mark.parametrize("how", ["unit", "run"])
def test_a_run_at_work_is_not_removed(store: Store, runs: list[RunConfig], how: str) -> None:
    name = run_id(runs[1])
    claim(store, trunk_id(runs[1]) if how == "unit" else "another", run=name if how == "run" else "")  # fmt: skip
    assert at_work(store)
    with pytest.raises(ConfigError, match=f"run {name} is being worked on by elsewhere:1"):
        removable(store, [(name, "final")])
    claim(store, trunk_id(runs[1]), host=socket.gethostname(), pid=2**22 - 1)
    claim(store, "another", run=name, time=OLD)
    remove(removable(store, [(name, "final")]))
    assert not store.run(name).exists()


def test_mistakes_are_one_line(store: Store, tmp_path: Path) -> None:
    for arguments, message in {
        ("rm", store.root): "name the runs to remove, or choose them by --where",
        ("rm", store.root, "gpt"): "no run 'gpt'",
        ("verify", tmp_path): "is not a store: it has no runs/ in it",
        ("gc", tmp_path / "none"): "is not a store: it is not a folder",
    }.items():
        error = runs_command(*arguments).exception
        assert isinstance(error, ValueError)
        assert message in str(error)
