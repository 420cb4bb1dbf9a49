"""precisionlaws config: what there is to choose from, and what a run would be."""

import sys
from typing import Annotated

import typer

from precisionlaws.cli.shared import Overrides

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List options; show a composed config."
)


OPTIONS = ("table", "law", "cost", "launcher", "exec", "ptq")  # no part of a run's config


@app.command("list")
def list_(
    group: Annotated[
        str | None, typer.Argument(help="model, size, quant, format, ptq ...", show_default=False)
    ] = None,
) -> None:
    """The options of a group, or all groups."""
    from precisionlaws.config import ConfigError, nearest
    from precisionlaws.overrides import CONF

    groups = {
        p.name: sorted(o.stem for o in p.glob("*.yaml"))
        for p in sorted(CONF.iterdir())
        if p.is_dir()
    }
    groups["study"] = sorted(p.stem for p in (CONF.parent / "sweeps").glob("*.yaml"))
    if group is not None and group not in groups:
        raise ConfigError(f"no group {group!r}{nearest(group, groups)}")
    for name, options in groups.items():
        if group in (None, name):
            print(f"{name:12} {'  '.join(options)}")
    if group in OPTIONS:
        print(f"what one can be told: precisionlaws config show {group}=NAME", file=sys.stderr)


@app.command()
def show(overrides: Overrides = None) -> None:
    """The run that the overrides describe: every field, its name, its counts. Also table=, law=, cost=,
    launcher=, exec= and ptq=NAME, with what their files say of each field."""
    import yaml

    group, _, name = (overrides or [""])[0].partition("=")
    if group in OPTIONS:
        alone(overrides or [])
        print(table(name) if group == "table" else option(group, name), end="")
        return

    from precisionlaws.config import plain
    from precisionlaws.models.count import counts
    from precisionlaws.run import compose, run_id

    run = compose(overrides or [])
    count = counts(run.model, run.size, run.data.vocab, run.data.context)
    print(yaml.safe_dump(plain(run), sort_keys=False), end="")
    print(f"# run_id {run_id(run)}")
    print(
        f"# N {count.N:,}  N_head {count.N_head:,}  N_emb {count.N_emb:,}  D {run.D:,} = {run.steps:,} steps"
    )
    print(f"# of {run.batch:,} tokens, peak learning rate {run.optimizer.lr:g}")


def alone(overrides: list[str]) -> None:
    """An option of these groups is shown as its file has it."""
    from precisionlaws.config import ConfigError

    if len(overrides) > 1:
        raise ConfigError(
            f"config show {overrides[0]} shows its defaults and takes nothing else, got {' '.join(overrides[1:])}"
        )


def option(group: str, name: str) -> str:
    """The file of an option, which says where its numbers are from, or what its fields do."""
    from precisionlaws.config import ConfigError, nearest
    from precisionlaws.overrides import CONF

    known = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"no {group} {name!r}{nearest(name, known)}")
    return (CONF / group / f"{name}.yaml").read_text()


def table(name: str) -> str:
    """The recipe of a public table, and how to use it."""
    from precisionlaws.tables import CONF, recipe

    known = recipe(name)
    text = (CONF / f"{name}.yaml").read_text()
    file = known.url.rpartition("/")[2]
    return f"{text}# fetch it by hand, then: precisionlaws fit {file} --table {name}\n"
