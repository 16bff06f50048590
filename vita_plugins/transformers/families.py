"""What differs between the model families of transformers, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vita_plugins.transformers.odd import (
    deepseek_queries,
    first_groups,
    length_first,
    mask_units,
    mllama_arguments,
    mllama_tokens,
    molmo2_arguments,
    videoprism_tokens,
    xclip_arguments,
    xclip_tokens,
)


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
    any_frames: whether the encoder takes any number of frames, because its positions in time are rotary.
    suffix: the number of tokens behind the patches, the key of the model's config with that number, or a function of the
    config and the (height, width) of the pictures that returns it.
    inner: the part of the model that is run, if it only wraps that under a name that the whole model has too.
    more: the path of a list of blocks that run after the others.
    given: returns the arguments of ``forward``, from (model, pixels), if the pixels are not its first argument.
    tokens: returns the tokens (B, T, C) of a hidden state, from (model, path of the layer, state), if it is of another form.
    arguments: arguments of ``forward`` besides the pixels.
    windows: the key of the model's config with the number of windows per side in which it has its tokens.
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
    any_frames: bool = False
    suffix: str | int | Callable[[Any, tuple[int, int]], int] = 0
    inner: str | None = None
    more: str | None = None
    given: Callable[[Any, Any], dict[str, Any]] | None = None
    tokens: Callable[[Any, str, Any], Any] | None = None
    arguments: tuple[tuple[str, object], ...] = ()
    windows: str | None = None
    rows: Callable[[Any, int, Any], Any] | None = None

    def suffix_of(self, config: Any, size: tuple[int, int]) -> int:
        """Return the number of tokens behind the patches of pictures of `size` (height, width)."""
        if isinstance(self.suffix, int):
            return self.suffix
        return int(getattr(config, self.suffix)) if isinstance(self.suffix, str) else self.suffix(config, size)


USUAL = Family()
PATCHES = Family(sizes="patches")  # rotary positions, or positions that are always interpolated
CNN = Family(sizes="any")
VIDEO = Family(sizes="fixed", frames="num_frames")

FAMILIES = {
    "align_vision_model": CNN,
    "bit": CNN,
    "convnext": CNN,
    "convnextv2": CNN,
    "bridgetower_vision_model": Family(sizes="fixed", tokens=length_first),
    "cvt": CNN,
    "deepseek_ocr2_vision": Family("vision_encoder.layers", sizes="fixed", suffix=deepseek_queries),
    "dinov2": PATCHES,
    "dinov2_with_registers": PATCHES,
    "dinov3_convnext": CNN,
    "dinov3_vit": PATCHES,
    "efficientnet": CNN,
    "focalnet": Family(sizes="any", down="FocalNetPatchEmbeddings"),
    "glpn": CNN,
    "hgnet_v2": CNN,
    # its blocks before the patches are grouped
    "groupvit_vision_model": Family("vision_model.encoder.stages.0.layers", suffix=first_groups),
    "hiera": Family(sizes="fixed", rows=mask_units),
    "internvl_vision": PATCHES,
    "got_ocr2_vision": Family(channels_last=True),
    "llama4_vision_model": Family(sizes="fixed", suffix=1),
    "mllama_vision_model": Family(
        "transformer.layers", more="global_transformer.layers", given=mllama_arguments, tokens=mllama_tokens
    ),
    "molmo2_vision": Family(given=molmo2_arguments),
    "levit": Family(down="LevitAttentionSubsample"),
    "lw_detr_vit": Family(windows="num_windows_side"),
    "mlcd_vision_model": PATCHES,
    "mobilenet_v1": CNN,
    "mobilenet_v2": CNN,
    "mobilevit": CNN,
    "mobilevitv2": CNN,
    "poolformer": CNN,
    "pp_chart2table_vision": Family(channels_last=True),
    "pp_formulanet_vision": Family(channels_last=True),
    "pp_lcnet": CNN,
    "pp_lcnet_v3": CNN,
    "pp_lcnet_v4": CNN,
    "owlv2_vision_model": Family(inner="vision_model"),
    "owlvit_vision_model": Family(inner="vision_model"),
    "pvt_v2": CNN,
    "regnet": CNN,
    "resnet": CNN,
    "rf_detr_dinov2": Family(windows="num_windows"),
    "rt_detr_resnet": CNN,
    "sam2_vision_model": Family(channels_last=True),
    "sam3_vision_model": Family(channels_last=True),
    "sam_hq_vision_model": Family(channels_last=True, inner="vision_encoder"),
    "sam_vision_model": Family(channels_last=True, inner="vision_encoder"),
    "sapiens2": PATCHES,
    "segformer": CNN,
    "slanext_vision": Family(channels_last=True),
    "swiftformer": Family(sizes="any", only="SwiftFormerStage"),
    "textnet": CNN,
    "timesformer": VIDEO,
    "tipsv2_vision_model": PATCHES,
    "videomae": VIDEO,
    "unlimited_ocr_vision": Family("vision_encoder.encoder.layers", sizes="fixed"),
    "uvdoc_backbone": Family("resnet.resnet_down", sizes="any"),
    "videoprism_vision_model": Family(
        "spatial_layers", more="temporal_layers", sizes="fixed", frames="num_frames", tokens=videoprism_tokens
    ),
    "vit_mae": Family(settings=(("mask_ratio", 0.0),)),
    "vitdet": PATCHES,
    "vivit": VIDEO,
    "vjepa2": Family(sizes="fixed", frames="frames_per_clip", any_frames=True, arguments=(("skip_predictor", True),)),
    "xclip_vision_model": Family(sizes="fixed", frames="num_frames", given=xclip_arguments, tokens=xclip_tokens),
    "yolos": Family(sizes="fixed", suffix="num_detection_tokens"),
}
"""The vision models that need more than one run shows, by the ``model_type`` of their config class."""

SAME = {"pp_chart2table_vision": "got_ocr2_vision"}
"""Vision parts that have a ``model_type`` of their own and the model of another."""

DETECTORS = ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer")
REASONS = dict.fromkeys(DETECTORS, "it is a whole detection model, around an encoder of its own") | {
    "chameleon": "it turns pictures into codes of a table",
    "emu3": "it turns pictures into codes of a table",
    "inkling2_vision": "its image processor neither resizes pictures nor limits their size, which is not supported yet",
    "fuyu": "its language model takes the pixels of the patches",
    "gemma4_unified": "its language model takes the pixels of the patches",
    "kosmos_2_5_vision_model": "it takes rows of patches with their places, which is not supported yet",
    "pix2struct_vision_model": "it takes rows of patches with their places, which is not supported yet",
    "step3p5_vision": "its queries and keys are saved in another order, which is not supported yet",
    "vilt": "pictures and texts share one encoder",
}
"""Why a model of pictures, or its vision part, is not opened, by its ``model_type``."""
