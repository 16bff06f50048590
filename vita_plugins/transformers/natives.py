"""What differs between the models of transformers that keep the size of each picture, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vita_plugins.transformers.families import Family


@dataclass(frozen=True)
class Native(Family):
    """A family whose models take pictures of any size: how they take them, and in which order they have their tokens.

    packing: what ``forward`` takes, a key of `vita_plugins.transformers.packing.PATCHES`, with the grid of each picture;
    ``sizes`` for padded pictures with their sizes, ``mask`` for padded pictures with a mask of their patches, ``tiles`` for
    tiles without one, ``naflex`` for padded rows of patches with such a mask, ``positions`` for padded rows with the (x, y)
    of each patch, or ``strip`` for one row of all patches.
    merge: the key of the model's config for the patches per side of the blocks that are merged for the language model.
    in_blocks: whether the tokens come block by block. Otherwise they come row by row.
    frames: the key of the config for the frames of a patch: a still is repeated.
    window: function of the config that returns the side of the windows in which the tokens come, in blocks.
    merge_sizes: whether ``forward`` takes the patches per side of each picture's blocks.
    tiles: whether larger pictures than the config's ``image_size`` are cut into tiles of that size.
    merger: the modules after the blocks that make what the language model gets, if they are part of the model and make one
    token of each block.
    beside: the output that holds those of mergers at earlier blocks. They are concatenated to the merger's own.
    between: the module behind block ``insert_layer_id`` of the config, which makes one token of 2 x 2.
    heads: other modules after the blocks, which are left out.
    processor: the image processor for checkpoints without a preprocessor config, if transformers has none for their type.
    rule: how the image processor sizes pictures, a key of `vita_plugins.transformers.budgets.BUDGETS`.
    """

    blocks: str = "blocks"
    norm: str | None = None
    packing: str = "vectors"
    merge: str | None = "spatial_merge_size"
    in_blocks: bool = True
    frames: str = "temporal_patch_size"
    window: Callable[[Any], int] | None = None
    merge_sizes: bool = False
    tiles: bool = False
    merger: tuple[str, ...] = ()
    beside: str | None = None
    between: str | None = None
    heads: tuple[str, ...] = ()
    processor: str = "Qwen2VLImageProcessor"
    rule: str = "between"


QWEN2 = Native(merger=("merger",))
QWEN2_5 = replace(QWEN2, window=lambda config: config.window_size // config.spatial_merge_size // config.patch_size)
QWEN3 = Native(merger=("merger", "deepstack_merger_list"), beside="deepstack_features")
GLM = Native(norm="post_layernorm", merger=("downsample", "merger"), processor="Glm4vImageProcessor", rule="glm")
IDEFICS3 = Native(
    "encoder.layers", "post_layernorm", packing="mask", merge=None, tiles=True,
    processor="Idefics3ImageProcessor", rule="idefics3",
)  # fmt: skip
MINICPM = Native(
    "encoder.layers", "post_layernorm", packing="strip", merge=None, between="vit_merger",
    processor="MiniCPMV4_6ImageProcessor", rule="minicpm",
)  # fmt: skip
MUSE = Native(
    "layers", packing="frames_first", merge="merge_size", in_blocks=False, frames="patch_temporal",
    window=lambda config: config.pos_emb_height, processor="MuseGlimmerImageProcessor", rule="muse",
)  # fmt: skip

NATIVES = {
    "cohere_compass_vision": replace(QWEN3, processor="CohereCompassImageProcessor"),
    "cosmos3_edge_vision": Native(
        "encoder.layers", "post_layernorm", packing="channels_last", processor="Cosmos3EdgeImageProcessor", rule="glm"
    ),
    "dots3_note_vision_encoder": Native(norm="norm", merger=("merger",)),
    "ernie4_5_vl_moe_vision": Native(norm="ln", processor="Ernie4_5_VLMoeImageProcessor"),
    "exaone4_5_vision": QWEN2_5,
    "gemma4_vision": Native(
        "encoder.layers", packing="positions", merge="pooling_kernel_size", in_blocks=False,
        processor="Gemma4ImageProcessor", rule="gemma4",
    ),
    "glm4v_moe_vision": GLM,
    "glm4v_vision": GLM,
    "glm5_next_vision": replace(GLM, processor="Glm5NextImageProcessor", rule="glm5"),
    "glm_image_vision": Native(processor="GlmImageImageProcessor", rule="glm_image"),
    "glm_ocr_vision": GLM,
    "granite_docling_vision": Native(
        "encoder.layers", "post_layernorm", packing="tiles", merge=None, tiles=True, heads=("connector",),
        processor="GraniteDoclingImageProcessor", rule="granite",
    ),
    "hunyuan_vl_vision": Native(
        "layers", in_blocks=False, heads=("patch_merger",), processor="HunYuanVLImageProcessor"
    ),
    "idefics2_vision": Native(
        "encoder.layers", "post_layernorm", packing="mask", merge=None, processor="Idefics2ImageProcessor", rule="idefics2"
    ),
    "idefics3_vision": IDEFICS3,
    "kimi_k25_vision": Native(
        "layers", "final_layernorm", packing="patches", merge="merge_kernel_size", in_blocks=False,
        processor="Kimi_K25ImageProcessor", rule="kimi",
    ),
    "lfm3_vl_vision": Native("layers"),
    "minicpm_ocr_vision": replace(MINICPM, processor="MiniCPMOcrImageProcessor"),
    "minicpmv4_6_vision": MINICPM,
    "minicpmv4_7_vision": MINICPM,
    "minimax_m3_vl_vision": Native("layers", processor="MiniMaxM3VLImageProcessor"),
    "muse_glimmer_vision": MUSE,
    "muse_spark_vision": MUSE,
    "paddleocr_vl_vision": Native(
        "vision_model.encoder.layers", "vision_model.post_layernorm", packing="sequence", in_blocks=False,
        processor="PaddleOCRVLImageProcessor", rule="paddleocr",
    ),
    "pixtral": Native(
        "transformer.layers", packing="sizes", merge=None, processor="PixtralImageProcessor", rule="longest_edge"
    ),
    "qwen2_5_omni_vision_encoder": QWEN2_5,
    "qwen2_5_vl_vision": QWEN2_5,
    "qwen2_vl_vision": QWEN2,
    "qwen3_5_moe_vision": QWEN2,
    "qwen3_5_vision": QWEN2,
    "qwen3_omni_moe_vision_encoder": replace(QWEN3, merger=("merger", "merger_list")),
    "qwen3_vl_moe_vision": QWEN3,
    "qwen3_vl_vision": QWEN3,
    "qwen4_exp_vision": QWEN2,
    "siglip2_vision_model": Native(
        "encoder.layers", "post_layernorm", packing="naflex", merge=None, heads=("head",),
        processor="Siglip2ImageProcessor", rule="naflex",
    ),
    "smolvlm_vision": replace(IDEFICS3, processor="SmolVLMImageProcessor"),
    "video_llama_3_vision": Native(
        "encoder.layers", "post_layernorm", in_blocks=False, merge=None, merge_sizes=True,
        processor="VideoLlama3ImageProcessor",
    ),
}  # fmt: skip
"""The vision models of native resolution that this tower opens, by the ``model_type`` of their config class. Each has a test."""
