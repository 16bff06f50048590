"""``vita doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from vita_core.cli.common import JsonOption
from vita_core.cli.exits import FAILURES


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the model hub can be reached.")] = False,
    json: JsonOption = False,
) -> None:
    """Examine this installation, and say how to cure faults.

    Compares Python and the libraries with the versions that vita-core is tested with, imports them, and loads the plugins.
    Looks at the cache and the free space, and runs a small tower on each device, in each dtype and with each kind of
    attention. The exit code is 3 if there is a problem. Opens no connection without --online.
    """
    from vita_core.diagnosing.report import report

    if not report(as_json=json, online=online):
        raise typer.Exit(FAILURES)
