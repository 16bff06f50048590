"""``vita verify``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vita_core.cli.common import JsonOption, print_json, print_table
from vita_core.cli.exits import FAILURES

if TYPE_CHECKING:
    from vita_core.weights.verifying import Row


def verify(
    directory: Annotated[
        str,
        typer.Argument(metavar="DIR", help="The directory of a trained or saved model, or a shipped config's name."),
    ],
    json: JsonOption = False,
) -> None:
    """Compare the files of a trained or saved model with the SHA-256 hashes in its provenance.json.

    Lists the files that have changed, are missing, or are not named in it. Weights that the provenance says lie elsewhere
    are compared too, if they are there. The exit code is 3 if a file differs, and 2 if DIR has no provenance.
    """
    from tqdm import tqdm

    from vita_core.weights.verifying import FINDINGS, Verification

    asked = Verification(_place(directory))
    with tqdm(total=asked.size, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:
        rows = asked.run(bar.update)
    findings = [row for row in rows if row.status in FINDINGS]
    if json:
        found = {"directory": str(asked.directory), "record": asked.record_file.name, "findings": len(findings)}
        print_json({**found, "files": [asdict(row) for row in rows]})
    else:
        _print(asked.directory, rows)
    if findings:
        raise typer.Exit(FAILURES)


def _place(directory: str) -> Path:
    """Return the directory, or that of a shipped config's weights: ``configs/quickstart`` of ``quickstart``."""
    from vita_core.config.configfiles import shipped_configs

    shipped = shipped_configs().get(directory)
    return Path(directory).expanduser() if shipped is None or Path(directory).exists() else shipped.with_suffix("")


def _print(directory: Path, rows: list[Row]) -> None:
    from vita_core.weights.verifying import FINDINGS

    shown = [row for row in rows if row.status != "intact"]
    if shown:
        cells = [(row.status, row.part, row.path, row.reason) for row in shown]
        print_table(str(directory), ["status", "weights of", "file", "reason"], cells)
    counts: Counter[str] = Counter(row.status for row in rows)
    told = ", ".join(f"{counts[status]} {status}" for status in ("intact", *FINDINGS, "not covered") if counts[status])
    typer.echo(f"{directory}: {told}")
    if any(row.status in FINDINGS and not row.part for row in rows):
        typer.echo("Try: copy the directory again from where it was written, or train or save the model again")
    if any(row.status in FINDINGS and row.part for row in rows):
        typer.echo("Try: `vita assets` for an asset; for other weights, the version that the model was made with")
