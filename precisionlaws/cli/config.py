"""precisionlaws config: what there is to choose from, and what a run would be."""

from typing import Annotated

import typer

from precisionlaws.cli.shared import Overrides

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List options; show a composed config."
)


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


@app.command()
def show(overrides: Overrides = None) -> None:
    """The run that the overrides describe: every field, its name, its counts. Also table=, law= and cost=NAME."""
    import yaml

    group, _, name = (overrides or [""])[0].partition("=")
    if group in ("table", "law", "cost"):
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


def option(group: str, name: str) -> str:
    """The file of a law or a cost model, which says where its numbers are from."""
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
