"""precisionlaws train: one run."""

from pathlib import Path

from precisionlaws.cli.shared import Json, Overrides, StoreOption, print_json


def command(
    overrides: Overrides = None, store: StoreOption = Path("results"), json: Json = False
) -> None:
    """Train one run (nothing is done twice); print its row."""
    from precisionlaws.run import compose

    config = compose(overrides or [])  # before torch is imported: mistakes answer fast
    from precisionlaws.training import heap
    from precisionlaws.training.train import train

    heap.keep()
    result = train(config, store)
    if json:
        print_json(result.row)
    else:
        print(result.summary())
