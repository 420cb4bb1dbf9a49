"""The command line: light, and one readable line for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from precisionlaws.cli import config, main
from precisionlaws.config import ConfigError

CLI = [sys.executable, "-m", "precisionlaws.cli"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *arguments], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['precisionlaws', '--help']\n"
        "from precisionlaws.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'pandas', 'matplotlib', 'hydra', 'omegaconf', 'yaml', 'rich'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr
    for command in ("train", "sweep", "quantize", "fit", "plan", "plot", "runs", "config"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "command", ["sweep", "quantize", "fit", "plan", "plot", "runs list", "config list"]
)
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    done = run(*command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage:" in done.stdout


MISTAKES = {
    "train quant.weigths.bits=4": "quant.weigths: no such field; did you mean 'weights'?",
    "train quant.weights.bits=2": "quant.weights.bits must be 3 to 15, or 16 for off, got 2",
    "train quant.weights.bits=17": "got 17",
    "train quant.weights.bits=3.7": "must be a whole number, got 3.7",
    "train size=21k": "did you mean '20k'?",
    "train tokens=0": "tokens must be a positive whole number",
    "train tokens=-1M": "tokens must be a positive whole number",
    "train data=text data.path=empty.txt": "has 0 training tokens",
    "train data=text data.path=none.txt": "cannot be read: No such file",
    "train --store file/store": "store 'file/store' is not writable: Not a directory",
    "train --store=": "an argument is empty: --store=",
    "quantize words.txt": "words.txt",
    "quantize few.csv": "is not a store",
    "fit few.csv --where 1<2": "is not a comparison",
    "plan damaged.json --flops 1e12": "is not a fit of precisionlaws",
    "sweep demo exec.device=cuda": "exec.device=cuda, but torch sees no GPU here",
    "sweep nosuch": "no study 'nosuch'",
    "sweep demo size=8k": "size=8k: unknown size; did you mean '7k'?",
    "sweep demo --retry all": "--retry takes 'failed'",
    "sweep demo --fail-fast --max-failures 3": "--fail-fast stops at the first failure",
    "sweep demo --store file": "store 'file' is not writable: it is a file, not a folder",
    "fit nowhere": "does not exist; a store, a CSV or a parquet file is wanted",
    "fit empty": "holds no finished run",
    "fit no_d.csv": "needs the column(s) D; the frame has",
    "fit few.csv": "2 losses cannot determine 5 parameters",
    "fit zero.csv": "loss must be positive and finite, got 0.0 in row 0 (line 2)",
    "fit few.csv --law kumar": "no law or term 'kumar'",
    "fit few.csv --where P_q==3": "no column 'P_q'; did you mean 'P_w'?",
    "fit few.csv --columns N": "--columns takes NAME=VALUE pairs",
    "plan few.csv --flops 1e12": "is not a fit of precisionlaws",
    "plan none.json --flops 1e12": "cannot be read: No such file",
    "plot bits few.csv": "no figure 'bits'",
    "plot effective few.csv": "few.csv",
    "quantize empty": "holds no finished run",
    "quantize empty --method gtpq": "unknown ptq",
    "quantize empty --bits 1": "ptq.bits must be 2 to 15, got 1",
    "runs list few.csv --sort lss": "no column 'lss'; did you mean 'loss'?",
    "runs show few.csv x": "no run 'x'",
    "config list formats": "did you mean 'format'?",
    "config show nope=1": "nope: no such field",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "file").write_text("")
    (path / "empty").mkdir()
    (path / "words.txt").write_text("to be or not to be")
    (path / "damaged.json").write_text('{"law": "chinchilla", "samples": {}, "params": {}}')
    (path / "empty.txt").write_text("")
    (path / "no_d.csv").write_text("N,loss\n" + "1e6,3\n" * 10)
    (path / "few.csv").write_text("N,D,loss,run_id\n1e6,1e7,3,a\n2e6,1e7,2.9,b\n")
    (path / "zero.csv").write_text(
        "N,D,loss\n"
        + "".join(f"{n}e6,{d}e7,{0 if n == d else 3}\n" for n in range(1, 5) for d in range(1, 5))
    )
    return path


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["precisionlaws", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    done = capsys.readouterr()
    assert ended.value.code == 2, done
    assert MISTAKES[line] in done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: ")
    assert sorted(folder.rglob("*")) == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("train", "size=21k", "--debug", cwd=tmp_path)
    assert "Traceback" in done.stderr


def test_config_show_names_the_run(tmp_path: Path) -> None:
    done = run("config", "show", "size=7k", "tokens=62.5k", cwd=tmp_path)
    assert "# run_id llama-d2w16-62464-fp-s0-" in done.stdout
    assert "N 6,656" in done.stdout
    assert "neff_kumar" in run("config", "list", "law", cwd=tmp_path).stdout


def test_config_shows_what_is_no_part_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    config.list_("launcher")
    assert capsys.readouterr().out.split() == ["launcher", "local", "slurm"]
    config.show(["launcher=slurm"])
    assert "units_per_job: 1 " in capsys.readouterr().out
    for wrong, words in {
        ("launcher=slrum",): "no launcher 'slrum'; did you mean 'slurm'",
        ("launcher",): "no launcher ''; valid: local, slurm",
        ("launcher=slurm", "launcher.gpus=2"): "takes nothing else, got launcher.gpus=2",
    }.items():
        with pytest.raises(ConfigError, match=words):
            config.show([*wrong])


@pytest.mark.slow
def test_a_wheel_installed_elsewhere_plans_the_demo(tmp_path: Path) -> None:
    """conf, kernels and sweeps travel in the wheel; the source tree is not needed."""
    root = Path(__file__).resolve().parents[2]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(root)], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    target = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True
    )
    done = subprocess.run(
        [*CLI, "sweep", "demo", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert "288 points" in done.stdout
    code = "import precisionlaws, precisionlaws.kernels.reference as r; print(precisionlaws.__file__, r.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
    )
    assert all(str(target) in p for p in where.stdout.split()), where.stdout
