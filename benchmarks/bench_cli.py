"""How long `precisionlaws --help` takes, beside a Typer hello world with two commands.

    python benchmarks/bench_cli.py

Whole processes, alternating, same interpreter and environment; the ratio of medians is the claim (≤ 1.3).
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELLO = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str): print(name)
@app.command()
def bye(name: str): print(name)
app()
"""
ROUNDS = 21


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        hello = Path(folder) / "hello.py"
        hello.write_text(HELLO)
        peer = [sys.executable, str(hello), "--help"]
        ours = [sys.executable, "-m", "precisionlaws.cli", "--help"]
        for command in (peer, ours):
            seconds(command)  # bytecode
        pairs = [(seconds(peer), seconds(ours)) for _ in range(ROUNDS)]
    hello_s, ours_s = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(f"typer hello world --help  {hello_s * 1e3:6.0f} ms")
    print(f"precisionlaws --help      {ours_s * 1e3:6.0f} ms   ratio {ours_s / hello_s:.2f}")


if __name__ == "__main__":
    main()
