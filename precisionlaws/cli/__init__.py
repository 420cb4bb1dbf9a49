"""The command line: parse, call one public function, print.

Exit codes: 0 done, 1 a run failed, 2 bad input, 3 a fit is not certified at a minimum, 130 interrupted
and resumable. Everything heavy is imported inside the commands.
"""

import sys
from typing import Annotated

import typer

from precisionlaws.cli import (
    bench,
    config,
    doctor,
    fit,
    jobs,
    plan,
    plot,
    quantize,
    report,
    runs,
    sweep,
    train,
)
from precisionlaws.cli.shared import printable

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Precision scaling laws: train small models at 3-16 bits, fit the law, plan N, D and bits.",
)
for module in (train, sweep, quantize, fit, plan, plot, report, doctor):
    name = module.__name__.rpartition(".")[2]
    app.command(name, no_args_is_help=module not in (train, doctor))(module.command)
app.add_typer(runs.app, name="runs")
app.add_typer(jobs.app, name="jobs")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Read in `main`: it must also work for errors of parsing."""


def main() -> None:
    """Run the command line; errors of the user are one line, never a traceback."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    empty = next((a for a in arguments if not a or (a.startswith("--") and a.endswith("="))), None)
    if empty is not None:  # an unset shell variable: as a path it would mean the current folder
        print(f"error: an argument is empty: {empty or repr(empty)}", file=sys.stderr)
        sys.exit(2)
    try:
        app(["--debug"] * debug + [a for a in arguments if a != "--debug"])
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `precisionlaws runs list | head`
        sys.stderr.close()
        sys.exit(0)
    except (ValueError, OSError) as error:  # ConfigError is a ValueError
        if debug:
            raise
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        print(
            f"error: {type(error).__name__}: {printable(text)} (--debug shows where)",
            file=sys.stderr,
        )
        sys.exit(1)
