"""What differs between the model families of transformers, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """What one run of a vision model does not show (`vita_plugins.transformers.tracing` finds the rest).

    blocks: the path of the list of blocks, or of stages, if it is not the list with most parameters.
    older: this path in older versions of transformers, if it differs.
    only: the name of the class in this list that is a layer, if others are between them.
    down: the name of the class that begins the downsampling inside a stage. The layer's features are those before it.
    channels_last: whether maps are (B, rows, cols, C), where the sizes alone do not show it.
    sizes: which other picture sizes the model takes, as in `BaseVisionTower.input_sizes`. None: multiples of the patch size
    if ``forward`` has the argument ``interpolate_pos_encoding``, else no other.
    settings: keys of the model's config that are set.
    frames: of an encoder of videos, the key of the model's config with the number of frames.
    suffix: the key of the model's config with the number of tokens behind the patches.
    arguments: arguments of ``forward`` besides the pixels.
    rows: puts the features of a layer into rows, from (model, layer, (B, N, C)) to (B, rows, cols, C).
    """

    blocks: str | None = None
    older: str | None = None
    only: str | None = None
    down: str | None = None
    channels_last: bool = False
    sizes: str | None = None
    settings: tuple[tuple[str, object], ...] = ()
    frames: str | None = None
    suffix: str | None = None
    arguments: tuple[tuple[str, object], ...] = ()
    rows: Callable[[Any, int, Any], Any] | None = None


USUAL = Family()
PATCHES = Family(sizes="patches")  # rotary positions, or positions that are always interpolated
CNN = Family(sizes="any")
VIDEO = Family(sizes="fixed", frames="num_frames")

FAMILIES = {
    "bit": CNN,
    "convnext": CNN,
    "convnextv2": CNN,
    "cvt": CNN,
    "dinov2": PATCHES,
    "dinov2_with_registers": PATCHES,
    "dinov3_convnext": CNN,
    "dinov3_vit": PATCHES,
    "efficientnet": CNN,
    "focalnet": Family(sizes="any", down="FocalNetPatchEmbeddings"),
    "glpn": CNN,
    "hgnet_v2": CNN,
    "hiera": Family(sizes="fixed", rows=lambda model, layer, state: model.encoder.reroll(state, max(layer - 1, 0))),
    "internvl_vision": PATCHES,
    "levit": Family(down="LevitAttentionSubsample"),
    "mlcd_vision_model": PATCHES,
    "mobilenet_v1": CNN,
    "mobilenet_v2": CNN,
    "mobilevit": CNN,
    "mobilevitv2": CNN,
    "poolformer": CNN,
    "pvt_v2": CNN,
    "regnet": CNN,
    "resnet": CNN,
    "rt_detr_resnet": CNN,
    "sam_hq_vision_model": Family(channels_last=True),
    "sam_vision_model": Family(channels_last=True),
    "sapiens2": PATCHES,
    "segformer": CNN,
    "swiftformer": Family(sizes="any", only="SwiftFormerStage"),
    "textnet": CNN,
    "timesformer": VIDEO,
    "tipsv2_vision_model": PATCHES,
    "videomae": VIDEO,
    "vit_mae": Family(settings=(("mask_ratio", 0.0),)),
    "vitdet": PATCHES,
    "vivit": VIDEO,
    "vjepa2": Family(sizes="fixed", frames="frames_per_clip", arguments=(("skip_predictor", True),)),
    "yolos": Family(sizes="fixed", suffix="num_detection_tokens"),
}
"""The vision models that need more than one run shows, by the ``model_type`` of their config class."""

TWO_TOWERS = ("aimv2", "altclip", "blip", "chinese_clip", "clip", "metaclip_2", "siglip")
"""Models of pictures and texts whose vision part is opened."""

REASONS = {
    "chameleon": "it turns pictures into codes of a table",
    "emu3": "it turns pictures into codes of a table",
    "fuyu": "its language model takes the pixels of the patches",
    "vilt": "pictures and texts share one encoder",
}
"""Why a model of pictures has no vision encoder, by its ``model_type``."""

NATIVE = ("gemma4",)
"""How the ``model_type`` of vision models starts that keep the size of each picture and are not opened yet."""
