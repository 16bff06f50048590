"""InternVL as transformers saves it (`InternVLForConditionalGeneration`)."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.hf import BASE_RULES, check_projector, normed_projector, text_config, vision_source
from vita_core.layouts.layout import Layout, OldConfig, dtype_of
from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.sources import Source

__all__ = ["LAYOUT"]

IMAGE_TOKEN = 151667
"""transformers' value for a missing key."""


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections, as transformers' class computes. Raises CheckpointError for what it cannot express."""
    check_projector(config)
    layer, strategy = config.get("vision_feature_layer", -1), config.get("vision_feature_select_strategy", "default")
    if not isinstance(layer, int) or strategy != "default":
        raise CheckpointError(
            f"vision_feature_layer {layer!r} with vision_feature_select_strategy {strategy!r}: transformers' InternVL does not "
            "run with them. Try: one layer and 'default'"
        )
    # the library takes the last layer after the final norm, which is there unless `use_mean_pooling` is set
    norm = layer == -1 and not config["vision_config"].get("use_mean_pooling", True)
    return {
        "tower": {
            "dtype": dtype_of(config),
            "select_layer": layer,
            "select_feature": "patch",
            "norm": norm,
            "pixel_shuffle": config.get("downsample_ratio", 0.5),
        },
        "projector": {"type": "mlp2x_gelu", "options": {"input_norm": True}},
        "llm": {"dtype": dtype_of(config)},
        "prompt": {"template": "chat", "image_token": config.get("image_token_id", IMAGE_TOKEN)},
    }


def file_sections(own: Source) -> dict[str, dict[str, Any]]:
    """Return the tiles of the image processor, and the tokens before and after those of a picture."""
    assert own.path is not None
    processor, tokenizer = own.preprocessor or {}, own.path / "tokenizer_config.json"
    stated = read_object(tokenizer) if tokenizer.is_file() else {}
    names = {**stated, **(stated.get("extra_special_tokens") or {})}
    begin, end = names.get("start_image_token", "<img>"), names.get("end_image_token", "</img>")
    tiles = {"min": processor.get("min_patches", 1), "max": processor.get("max_patches", 12), "thumbnail": True}
    return {"images": {"tiles": tiles}, "prompt": {"image_text": f"{begin}<image>{end}"}}


def tower_source(own: Source) -> Source:
    """Return the tower's source. The image processor does not cut the tiles, because ``images.tiles`` has cut them."""
    processor = None if own.preprocessor is None else {**own.preprocessor, "crop_to_patches": False}
    return vision_source(own, processor)


LAYOUT = Layout(
    name="InternVL",
    model_types=("internvl",),
    recognises=lambda config: config.get("model_type") == "internvl" and "vision_config" in config,
    rules=(*BASE_RULES, *normed_projector("layer_norm")),
    decoder=lambda config: text_config(config, "qwen2", tied=True),
    sections=sections,
    file_sections=file_sections,
    tower_name=lambda config: None,
    tower_source=tower_source,
)
