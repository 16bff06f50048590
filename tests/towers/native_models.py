"""Small models of native resolution, and their features by the library's own processor, model and hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import CONFIGS, saved
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vita_plugins.transformers.finding import model_class
from vita_plugins.transformers.natives import NATIVES

VALUES: dict[str, Any] = {
    "deepstack_visual_indexes": [0, 2],
    "depth": 4,
    "embed_dim": 32,
    "fullatt_block_indexes": [1, 3],
    "head_dim": 16,
    "hidden_size": 32,
    "image_size": 32,
    "intermediate_size": 64,
    "max_image_size": 64,
    "max_position_embeddings": 16,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_position_embeddings": 16,
    "out_hidden_size": 48,
    "patch_size": 8,
    "pos_emb_height": 4,
    "pos_emb_width": 4,
    "text_hidden_size": 24,
    "window_size": 32,
}
"""Sizes that make the models small. Each config takes those that it knows."""
MORE: dict[str, dict[str, Any]] = {
    "dots3_note_vision_encoder": {
        "adapter_in_dim": 32,
        "adapter_out_dim": 48,
        "moe_intermediate_size": 16,
        "num_experts_per_tok": 2,
        "pyramid_num_routed": [-1, -1, 4, 2],
    },
    "cosmos3_edge_vision": {"num_patches": 16},
    "lfm3_vl_vision": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "minicpm_ocr_vision": {"insert_layer_id": 1},
    "minicpmv4_6_vision": {"insert_layer_id": 1},
    "minicpmv4_7_vision": {"insert_layer_id": 1},
    "muse_glimmer_vision": {"layer_types": ["window_attention", "full_attention"] * 2},
    "muse_spark_vision": {"layer_types": ["window_attention", "full_attention"] * 2},
    "pixtral": {"image_size": 128},  # older versions have a table of positions
    "siglip2_vision_model": {"num_patches": 16},
}

QWEN = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 8192}}
GLM = ("Glm4vImageProcessor", {**QWEN, "size": {"shortest_edge": 2048, "longest_edge": 16384}})
EDGE = {"size": {"longest_edge": 90, "shortest_edge": 60}}
TILES = {"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 32}}
MINICPM = {"patch_size": 8, "scale_resolution": 100, "slice_mode": False, "downsample_mode": "4x"}
MUSE = ("MuseGlimmerImageProcessor", {"patch_size": 8, "max_image_tokens": 30})
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere_compass_vision": ("CohereCompassImageProcessor", QWEN),
    "cosmos3_edge_vision": ("Cosmos3EdgeImageProcessor", QWEN),
    "dots3_note_vision_encoder": ("Qwen2VLImageProcessor", {**QWEN, "temporal_patch_size": 1}),
    "ernie4_5_vl_moe_vision": ("Ernie4_5_VLMoeImageProcessor", QWEN),
    "gemma4_vision": ("Gemma4ImageProcessor", {"patch_size": 8, "max_soft_tokens": 70}),
    "glm4v_moe_vision": GLM,
    "glm4v_vision": GLM,
    "glm5_next_vision": ("Glm5NextImageProcessor", {"patch_size": 8, "min_image_tokens": 4, "max_image_tokens": 32}),
    "glm_image_vision": ("GlmImageImageProcessor", {**QWEN, "merge_size": 1, "temporal_patch_size": 1}),
    "glm_ocr_vision": GLM,
    "granite_docling_vision": ("GraniteDoclingImageProcessor", {"size": {"height": 32, "width": 32}, "max_patches": 6}),
    "hunyuan_vl_vision": ("HunYuanVLImageProcessor", QWEN),
    "idefics2_vision": ("Idefics2ImageProcessor", EDGE),
    "idefics3_vision": ("Idefics3ImageProcessor", TILES),
    "kimi_k25_vision": ("Kimi_K25ImageProcessor", {"patch_size": 8, "max_patches": 100}),
    "minicpm_ocr_vision": ("MiniCPMOcrImageProcessor", MINICPM),
    "minicpmv4_6_vision": ("MiniCPMV4_6ImageProcessor", MINICPM),
    "minicpmv4_7_vision": ("MiniCPMV4_6ImageProcessor", MINICPM),
    "minimax_m3_vl_vision": ("MiniMaxM3VLImageProcessor", QWEN),
    "muse_glimmer_vision": MUSE,
    "muse_spark_vision": MUSE,
    "paddleocr_vl_vision": ("PaddleOCRVLImageProcessor", QWEN),
    "pixtral": ("PixtralImageProcessor", {"patch_size": 8, "size": {"longest_edge": 100}}),
    "siglip2_vision_model": ("Siglip2ImageProcessor", {"patch_size": 8, "max_num_patches": 60}),
    "smolvlm_vision": ("SmolVLMImageProcessor", TILES),
    "video_llama_3_vision": ("VideoLlama3ImageProcessor", {**QWEN, "merge_size": 1}),
}
"""The image processors of the library with small budgets. All others have Qwen2-VL's."""
KNOWN = [name for name in NATIVES if name in CONFIGS]
"""The families that the installed version of transformers has."""


def without(model_type: str) -> pytest.MarkDecorator:
    """Skip a test if the installed version of transformers has no such model."""
    return pytest.mark.skipif(model_type not in CONFIGS, reason=f"transformers {transformers.__version__} has none")


ROWS = ("hunyuan_vl_vision", "kimi_k25_vision", "muse_glimmer_vision", "muse_spark_vision", "paddleocr_vl_vision")
"""Models whose tokens come row by row and not in blocks of 2 x 2, before windows."""
WINDOWS = {
    **dict.fromkeys(("exaone4_5_vision", "qwen2_5_omni_vision_encoder", "qwen2_5_vl_vision"), 2),  # blocks of 2 x 2
    **dict.fromkeys(("muse_glimmer_vision", "muse_spark_vision"), 4),  # patches
}
"""The side of the windows in which tokens come."""


def small_config(model_type: str) -> Any:
    kind = CONFIGS[model_type]
    known = kind().to_dict()
    return kind(**{key: value for key, value in VALUES.items() if key in known} | MORE.get(model_type, {}))


def small_model(model_type: str, folder: Path) -> tuple[Any, Any]:
    """A model with random weights and its image processor, both saved as the library saves them."""
    config = small_config(model_type)
    found = model_class(config)
    assert found is not None
    return saved(found(config), folder), small_processor(model_type, folder)


def small_processor(model_type: str, folder: Path) -> Any:
    name, settings = PROCESSORS.get(model_type, ("Qwen2VLImageProcessor", QWEN))
    exact = getattr(transformers, f"{name}Pil", getattr(transformers, name))(**settings)
    exact.save_pretrained(folder)
    return exact


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = ((90, 130), (40, 44), (200, 70))
    return [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).resize(size[::-1]) for size in sizes]


def library_states(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> list[dict[int, Tensor]]:
    """All hidden states (rows, cols, C) of each picture, from one run of the library's processor and one of its model."""
    kind = model.config.model_type
    if "spatial_shapes" in processor.model_input_names:
        made = processor(images=pictures, return_tensors="pt")
        states = block_states(model, **made)
        grids = made["spatial_shapes"].tolist()
        return [
            {layer: state[i, : rows * cols].reshape(rows, cols, -1) for layer, state in enumerate(states)}
            for i, (rows, cols) in enumerate(grids)
        ]
    if "image_position_ids" in processor.model_input_names:
        made = processor(images=pictures, return_tensors="pt")
        states = block_states(model, pixel_values=made["pixel_values"], pixel_position_ids=made["image_position_ids"])
        ends = [(int(rows) + 1, int(cols) + 1) for cols, rows in made["image_position_ids"].amax(1)]
        return [
            {layer: state[i, : rows * cols].reshape(rows, cols, -1) for layer, state in enumerate(states)}
            for i, (rows, cols) in enumerate(ends)
        ]
    if "pixel_attention_mask" in processor.model_input_names:  # what is left beside whole patches depends on the batch
        return [_idefics(model, processor, picture) for picture in pictures]
    made = processor(images=pictures, return_tensors="pt")
    pixels = made["pixel_values"]
    if "target_sizes" in made:
        states = block_states(model, pixel_values=pixels, target_sizes=made["target_sizes"])
        grids = made["target_sizes"].tolist()
        return [
            {layer: _part(state, grids, index, 1 if layer < 3 else 2) for layer, state in enumerate(states)}
            for index in range(len(grids))
        ]
    if "image_sizes" in made:
        states = block_states(model, pixel_values=pixels, image_sizes=made["image_sizes"].tolist())
        grids = [(height // 8, width // 8) for height, width in made["image_sizes"].tolist()]
    else:
        grids = [(rows, cols) for _, rows, cols in made["image_grid_thw"].tolist()]
        more = {"merge_sizes": made["image_merge_sizes"]} if "image_merge_sizes" in made else {}
        first, *others = inspect.signature(model.forward).parameters
        given = {first: pixels[None] if kind == "paddleocr_vl_vision" else pixels, **more}
        thw = made["image_grid_thw"]
        if "image_grid_thw" in others:  # an older version
            given |= {"image_grid_thw": thw.tolist(), "cu_seqlens": F.pad(thw.prod(dim=1).cumsum(dim=0), (1, 0))}
        else:
            given["grid_thw"] = thw
        states = block_states(model, **given)
    places = [_places(kind, *grid) for grid in grids]
    found = []
    for index, (rows, cols) in enumerate(grids):
        start = sum(len(before) for before in places[:index])
        maps = {}
        for layer, state in enumerate(states):
            maps[layer] = torch.full((rows, cols, state.shape[-1]), torch.nan)
            for token, (row, col) in enumerate(places[index]):
                maps[layer][row, col] = state.reshape(-1, state.shape[-1])[start + token]
        found.append(maps)
    return found


def _part(state: Tensor, grids: list[list[int]], index: int, joined: int) -> Tensor:
    """The tokens (rows, cols, C) of one picture in a sequence of all, where `joined` x `joined` patches are one token."""
    sizes = [rows * cols // joined**2 for rows, cols in grids]
    rows, cols = grids[index]
    return state[0].split(sizes)[index].reshape(rows // joined, cols // joined, -1)


def _idefics(model: Any, processor: Any, picture: Image.Image) -> dict[int, Tensor]:
    """The hidden states of one picture: those of Idefics3's tiles in their places, without the small picture at the end."""
    rows_cols = {"return_row_col_info": True} if "max_image_size" in processor.to_dict() else {}
    made = processor(images=[[picture]], return_tensors="pt", **rows_cols)
    pixels = made["pixel_values"][0]
    if "rows" not in made:
        states = block_states(model, pixel_values=pixels)
        grid = pixels.shape[-2] // 8, pixels.shape[-1] // 8
        return {layer: state.reshape(*grid, -1) for layer, state in enumerate(states)}
    down, right = made["rows"][0][0], made["cols"][0][0]
    states = block_states(model, pixel_values=pixels[: down * right or 1])  # 0 x 0 if there is one tile
    maps = {}
    for layer, state in enumerate(states):
        tiles = [tile.reshape(4, 4, -1) for tile in state]
        lines = [torch.cat(tiles[row * right : (row + 1) * right], dim=1) for row in range(down)] or tiles
        maps[layer] = torch.cat(lines)
    return maps


def _places(kind: str, rows: int, cols: int) -> list[tuple[int, int]]:
    """The (row, column) of each token in the order of the library."""
    side = 1 if kind in (*ROWS, "glm_image_vision", "pixtral", "video_llama_3_vision") else 2
    window = WINDOWS.get(kind, 1000)
    blocks = [(row, col) for row in range(rows // side) for col in range(cols // side)]
    blocks.sort(key=lambda block: (block[0] // window, block[1] // window))
    return [
        (row * side + down, col * side + right) for row, col in blocks for down in range(side) for right in range(side)
    ]


def block_states(model: nn.Module, **given: Any) -> list[Tensor]:
    """The input of the first block and the output of each, in one run."""
    blocks = next(it for it in model.modules() if isinstance(it, nn.ModuleList) and len(it) == 4)
    states = []
    hooks = [
        blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: states.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
    ]
    for block in blocks:
        hooks.append(
            block.register_forward_hook(lambda _, args, out: states.append(out[0] if isinstance(out, tuple) else out))
        )
    with torch.no_grad():
        model(**given)
    for hook in hooks:
        hook.remove()
    assert len(states) == 5
    return states
