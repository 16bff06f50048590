"""What differs between the model families of transformers, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Where a vision model of transformers has its parts.

    blocks: the path of the list of blocks (of a hierarchical encoder: of its stages).
    norm: the path of the final norm, or None if there is none that maps tokens to tokens.
    older: the path of the blocks in older versions of transformers, if it differs.
    first_layer: 1 if the input of the first block is the pixels and not embeddings.
    sizes: which other picture sizes the model takes, as in `BaseVisionTower.input_sizes`.
    interpolates: whether ``forward`` has the argument ``interpolate_pos_encoding``. Without it, a model that takes other
    sizes always interpolates.
    settings: keys of the model's config that are set.
    frames: of an encoder of videos, the key of the model's config with the number of frames.
    arguments: arguments of ``forward`` besides the pixels.
    """

    blocks: str = "encoder.layers"
    norm: str | None = "post_layernorm"
    older: str | None = None
    first_layer: int = 0
    sizes: str = "patches"
    interpolates: bool = False
    settings: tuple[tuple[str, object], ...] = ()
    frames: str | None = None
    arguments: tuple[tuple[str, object], ...] = ()


CLIP = Family(interpolates=True)
VIT = Family("layers", "layernorm", "encoder.layer", interpolates=True)
DINOV2 = Family("encoder.layer", "layernorm")
CONVNEXT = Family("encoder.stages", None, sizes="any")

FAMILIES = {
    "aimv2_vision_model": Family(norm="rms_norm", sizes="fixed"),
    "altclip_vision_model": CLIP,
    "beit": VIT,
    "blip_vision_model": CLIP,
    "chinese_clip_vision_model": CLIP,
    "clip_vision_model": CLIP,
    "convnext": CONVNEXT,
    "convnextv2": CONVNEXT,
    "data2vec-vision": Family("encoder.layer", "layernorm", interpolates=True),
    "deit": VIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "dinov3_convnext": Family("model.stages", None, first_layer=1, sizes="any"),
    "dinov3_vit": Family("model.layer", "norm"),
    "ijepa": VIT,
    "internvl_vision": DINOV2,
    "metaclip_2_vision_model": CLIP,
    "mlcd_vision_model": Family(),
    "resnet": CONVNEXT,
    "siglip_vision_model": CLIP,
    "timesformer": Family("encoder.layer", "layernorm", sizes="fixed", frames="num_frames"),
    "videomae": Family("encoder.layer", "layernorm", sizes="fixed", frames="num_frames"),
    "vit": VIT,
    "vit_mae": replace(VIT, settings=(("mask_ratio", 0.0),)),
    "vit_msn": VIT,
    "vivit": Family("layers", "layernorm", "encoder.layer", sizes="fixed", frames="num_frames"),
    "vjepa2": Family(
        "encoder.layer",
        "encoder.layernorm",
        sizes="fixed",
        frames="frames_per_clip",
        arguments=(("skip_predictor", True),),
    ),
}
"""The vision models that this tower opens, by the ``model_type`` of their config class. Each has a test."""

TWO_TOWERS = ("aimv2", "altclip", "blip", "chinese_clip", "clip", "metaclip_2", "siglip")
"""Models of pictures and texts whose vision part is opened."""

REASONS = {
    "chameleon": "it turns pictures into codes of a table",
    "emu3": "it turns pictures into codes of a table",
    "fuyu": "its language model takes the pixels of the patches",
    "vilt": "pictures and texts share one encoder",
}
"""Why a model of pictures has no vision encoder, by its ``model_type``."""

NATIVE = ("siglip2_vision_model", "pixtral", "idefics2", "idefics3", "smolvlm", "qwen", "glm4v", "glm4_1v", "gemma4")
"""How the ``model_type`` of vision models starts that keep the size of each picture."""
