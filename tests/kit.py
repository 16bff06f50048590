"""What the tests of the conformance kit share."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from vita_core.testing import Result


def assert_told(result: Result, seen: str) -> None:
    """A failure whose message is the contract, what was seen, and the remedy."""
    assert result.outcome == "failed"
    contract, found, remedy = result.message.split("\n", 2)
    assert contract == f"contract: {result.check.contract}"
    assert re.search(seen, found), found
    assert remedy == f"fix: {result.check.remedy}"


def run_pytest(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real pytest in a directory of its own, without this project's settings."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
    )
