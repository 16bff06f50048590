"""``vita migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita_core.cli.asking import TowerWeightsOption
from vita_core.cli.common import JsonOption, SetOption, print_json, print_table


def migrate(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The directory of a VITA or LLaVA checkpoint.")],
    out: Annotated[Path, typer.Option(help="The YAML file to write.")],
    tower_weights: TowerWeightsOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write a YAML config for a VITA or LLaVA checkpoint, and print what each key of its config.json became."""
    from vita_core.errors import ConfigError
    from vita_core.planning.migrating import migrate as migrate_config
    from vita_core.weights.files import write_text

    if out.exists():
        raise ConfigError(f"--out: already exists: {out}. Try: another file, or move it away")
    migration = migrate_config(directory, tower_weights=tower_weights, overrides=overrides or ())
    write_text(out, migration.text)
    if json:
        print_json({"out": str(out), **migration.to_dict()})
        return
    print_table("converted", ["old key", "value", "new key"], migration.became)
    print_table("ignored", ["old key", "value", "why"], migration.ignored)
    if migration.accident is not None:
        typer.echo(migration.accident)
    typer.echo(f"wrote {out}")
