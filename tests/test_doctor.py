"""doctor: one finding per part, whatever is broken."""

import json
from pathlib import Path

import pytest

from precisionlaws import cli, doctor
from precisionlaws.kernels import backends

PARTS = ["versions", "device", "kernels", "compiler", "corpus", "store", "cluster"]


def states(store: Path) -> dict[str, str]:
    return {f.what: f.state for f in doctor.examine(store)}


def test_a_machine_that_passes_these_tests_is_well(tmp_path: Path) -> None:
    found = states(tmp_path / "new")
    assert list(found) == PARTS
    assert doctor.BAD not in found.values()
    assert not (tmp_path / "new").exists()  # looked at, not made


def test_a_store_that_cannot_be_written_stops_no_other_check(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert states(tmp_path / "file") == states(tmp_path) | {"store": doctor.BAD}


def test_a_file_system_without_hard_links_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*paths: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refused)
    found = {f.what: f for f in doctor.examine(tmp_path)}["store"]
    assert found.state == doctor.NOTE
    assert "no hard links" in found.says
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_with_other_bits_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "kernel", lambda name, x: lambda x, *rest: x)
    assert states(tmp_path)["kernels"] == doctor.BAD


@pytest.mark.parametrize("linked", [True, False])
def test_exit_code_and_json(
    tmp_path: Path, linked: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    store = tmp_path if linked else tmp_path / "file" / "inside"
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["precisionlaws", "doctor", "--json", "--store", str(store)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == (0 if linked else 1)
    found = json.loads(capsys.readouterr().out)
    assert [f["what"] for f in found] == PARTS
    assert {f["state"] for f in found} <= {"ok", "note", "bad"}


@pytest.mark.parametrize(
    ("says", "state", "words"),
    [
        ("echo MaxArraySize = 501", doctor.OK, "Slurm answers: launcher=slurm, up to 501 jobs"),
        ("echo MaxArraySize = 0", doctor.NOTE, "takes no job arrays"),
        ("echo scontrol: error: no controller >&2; exit 1", doctor.NOTE, "cannot work: no controller"),
    ],
)  # fmt: skip
def test_slurm_is_asked(
    says: str, state: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("sbatch", "scontrol"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o700)
    found = doctor.cluster(tmp_path)
    assert found[0] == state
    assert words in found[1]


def test_where_no_slurm_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.cluster(tmp_path) == (
        doctor.NOTE,
        "no sbatch on the PATH: sweeps run on this machine",
    )
