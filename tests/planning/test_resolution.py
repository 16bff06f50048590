"""`resolve` is the one way in: whatever names a model resolves to the same stages, without torch and without a weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN

from vita_core import VitaError, build_model, load_config
from vita_core.planning.resolution import resolve


def test_a_file_a_mapping_and_a_config_resolve_to_the_same(tiny_config: Path) -> None:
    config = load_config(tiny_config)
    by_name, by_sections, by_config = (resolve(place) for place in (tiny_config, config.model_dump(), config))
    assert by_name.tower.geometry == by_sections.tower.geometry == by_config.tower.geometry
    for found in (by_name, by_sections, by_config):
        projector, llm = found.language("the test")
        assert (projector.in_features, projector.out_features, llm.hidden_size) == (32, 24, 24)
        assert (found.checkpoint, found.tower.part, projector.part, llm.part) == (None, None, None, None)


def test_overrides_reach_every_kind_of_place(tiny_config: Path) -> None:
    for place in (tiny_config, load_config(tiny_config), load_config(tiny_config).model_dump(exclude_unset=True)):
        assert resolve(place, ["tower.select_layer=1"]).tower.geometry.layers == (1,)


def test_the_stages_of_a_checkpoint_are_parts_of_its_files(golden: Path) -> None:
    resolved = resolve(golden / "vita15")
    projector, llm = resolved.language("the test")
    assert resolved.checkpoint is not None
    parts = {"tower": resolved.tower.part, "projector": projector.part, "llm": llm.part and llm.part.part}
    for stage, part in parts.items():
        assert part is not None
        assert (part.stage, part.files) == (stage, resolved.checkpoint.files)
    assert "2 audio tensors skipped" in "\n".join(resolved.notes)


def test_only_the_tower_is_resolved_where_nothing_else_is_needed(tiny_config: Path) -> None:
    """A language model that is not here must not stop ``vita encode``."""
    overrides = ["llm.weights=./nowhere"]
    assert resolve(tiny_config, overrides, tower_only=True).llm is None
    with pytest.raises(VitaError, match="nowhere"):
        resolve(tiny_config, overrides)


def test_a_resolved_model_is_built_as_it_is(tiny_config: Path) -> None:
    resolved = resolve(tiny_config, ["device=cpu"])
    assert build_model(resolved).resolved is resolved


@pytest.mark.slow
def test_resolving_imports_no_torch(tiny_config: Path) -> None:
    code = (
        "import sys\nfrom vita_core.planning.resolution import resolve\n"
        f"resolve({str(tiny_config)!r}); resolve({str(GOLDEN / 'vita15')!r})\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
