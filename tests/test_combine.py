"""docs/combine.md: its recipes are planned for encoders of published size, whose configs transformers writes, without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY
from documents import Block, blocks_of

from vita_core import make_plan
from vita_core.cli.plan import plan

PAGE = REPOSITORY / "docs" / "combine.md"
TOKENS = {
    "both.yaml": (729, 1024 + 1152),
    "pooled-part.yaml": (81, 1152 + 1024),
    "eagle.yaml": (1024, 1024 + 1536),
    "pool.yaml": (81, 1152),
    "inside.yaml": (320, 1024),
    "resampler.yaml": (144, 1152),
}
"""What the page says, or what follows from the published sizes, of each recipe."""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of encoders, and of a language model, each a ``config.json`` alone."""
    import transformers

    vit = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    configs = {
        "siglip": transformers.SiglipVisionConfig(
            hidden_size=1152,
            num_hidden_layers=27,
            num_attention_heads=16,
            intermediate_size=4304,
            image_size=384,
            patch_size=14,
        ),
        "dinov2": transformers.Dinov2Config(**vit, image_size=518, patch_size=14),
        "clip": transformers.CLIPVisionConfig(**vit, intermediate_size=4096, image_size=336, patch_size=14),
        "convnext": transformers.ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[192, 384, 768, 1536]),
        "my-language-model": transformers.Qwen2Config(
            hidden_size=3584,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            intermediate_size=18944,
            vocab_size=152064,
        ),
    }
    folder = tmp_path_factory.mktemp("encoders")
    for name, config in configs.items():
        config.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("block", blocks_of(PAGE, "yaml"), ids=lambda block: block.title)
def test_a_recipe_is_planned(block: Block, encoders: Path) -> None:
    assert block.title is not None
    (encoders / block.title).write_text(block.text)
    made = make_plan(encoders / block.title)
    tokens, width = TOKENS[block.title]
    *tower, _, _ = made.stages
    assert tower[-1].shape == (1, tokens, width)


def test_the_plan_that_is_shown_is_printed(encoders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config,) = [block for block in blocks_of(PAGE, "yaml") if block.title == "both.yaml"]
    (shown,) = blocks_of(PAGE, "text")
    (encoders / "both.yaml").write_text(config.text)
    plan(str(encoders / "both.yaml"))
    assert shown.text in capsys.readouterr().out
