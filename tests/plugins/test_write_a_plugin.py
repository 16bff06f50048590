"""docs/write-a-plugin.md is executed: its code blocks, in their order, as one shell script in a second environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from distributions import REPOSITORY, Environment
from documents import Block, blocks_of

PAGE = REPOSITORY / "docs" / "write-a-plugin.md"
NETWORK = "# needs a network"


def steps(page: Sequence[Block]) -> Iterator[str]:
    """A block with a title is written to that file; bash and Python without one are run; other text shows a form only."""
    for block in page:
        if block.title:
            yield f"cat > {block.title} <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"
        elif block.language == "bash":
            yield "\n".join(line for line in block.text.splitlines() if not line.endswith(NETWORK))
        elif block.language == "python":
            yield f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK"


def followed(environment: Environment, page: Sequence[Block], folder: Path) -> str:
    """What the blocks print, run as one shell script in a folder."""
    (environment.bin / "follow").write_text("\n".join(["#!/bin/bash", "set -ex", *steps(page), ""]))
    (environment.bin / "follow").chmod(0o755)
    done = environment.run("follow", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.extras  # it takes a minute; tests/plugins/test_distributions.py installs what the templates write
def test_the_page_does_what_it_says(environment: Environment, tmp_path: Path) -> None:
    page = blocks_of(PAGE)
    parts = next(number for number, block in enumerate(page) if block.text.startswith("vita new-reduction "))
    told = followed(environment, page[:parts], tmp_path)
    package = tmp_path / "vita-tower-vit"
    assert list((package / "dist").glob("vita_tower_vit-*.whl"))
    assert len((package / "vita_tower_vit" / "tower.py").read_text().splitlines()) <= 40
    assert re.search(r"vit +the classic ViT", told)
    assert "196 visual tokens" in told
    told = followed(environment, page[parts:], package)
    assert len(re.findall(r"\b4 visual tokens", told)) == 2  # of the reduction and of the projector
    ruff = environment.run("python", "-m", "ruff", "check", package, cwd=package)
    assert ruff.returncode == 0, ruff.stdout


def test_every_command_is_run_but_those_that_need_a_network() -> None:
    script = "\n".join(steps(blocks_of(PAGE)))
    typed = [line for block in blocks_of(PAGE, "bash") if not block.title for line in block.text.splitlines()]
    left_out = [line for line in typed if line not in script.splitlines()]
    assert left_out
    assert all(line.startswith("pip install ") and line.endswith(NETWORK) for line in left_out)
