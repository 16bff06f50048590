"""Every module of timm, and every model of open_clip and transformers, opens or has a reason, as docs/encoders.md says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.extras
@pytest.mark.parametrize("library", ["timm", "open_clip", "transformers"])
def test_the_page_of_encoders_is_up_to_date(library: str) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "docs" / "encoders.py", "--check", library],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
