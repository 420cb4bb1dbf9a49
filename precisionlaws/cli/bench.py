"""precisionlaws bench: how fast this machine is."""

import typer

from precisionlaws.cli.shared import Json, print_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="How fast this machine is.")


@app.command()
def kernels(json: Json = False) -> None:
    """GB/s of fake quantization beside those of a copy, on the GPU if there is one."""
    from precisionlaws.kernels import bench

    timings = bench.here()
    if json:
        print_json(bench.as_dict(timings))
        return
    print(", ".join(f"{k} {v}" for k, v in bench.machine().items()))
    print("\n".join(bench.lines(timings)))


@app.command()
def train() -> None:
    """Steps per second of training, per size and quantization."""
    from precisionlaws.training import heap, speed

    heap.keep()  # as a worker does
    print(speed.table())
