"""The figures of published checkpoints, for the config and processor classes of their own library."""

from __future__ import annotations

from typing import Any

Made = tuple[str, dict[str, Any], str | None, dict[str, Any]]


def vit(hidden: int, mlp: int, layers: int, heads: int, image: int, patch: int, **more: Any) -> dict[str, Any]:
    """The keys of a usual vision config."""
    return {
        "hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": image, "patch_size": patch, **more,
    }  # fmt: skip


def square(side: int) -> dict[str, Any]:
    return {"size": {"height": side, "width": side}}


def cropped(side: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


SO400M = (1152, 4304, 27, 16)
MISTRAL = {"model_type": "mistral", "hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 131_072, "rope_theta": 1e9,
           "max_position_embeddings": 1_024_000}  # fmt: skip
SWIN_L = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "patch_size": 4}
PUBLISHED: dict[str, Made] = {
    "siglip2-naflex": ("Siglip2Config", {"vision_config": {**vit(*SO400M, 224, 16), "num_patches": 256},
        "text_config": {"vocab_size": 256_000}}, "Siglip2ImageProcessor", {"max_num_patches": 1024}),
    "siglip2-giant": ("SiglipConfig", {"vision_config": vit(1536, 6144, 40, 16, 384, 16),
        "text_config": {"vocab_size": 256_000}}, "SiglipImageProcessor", square(384)),
    "siglip-896": ("SiglipConfig", {"vision_config": vit(*SO400M, 896, 14)}, "SiglipImageProcessor", square(896)),
    "clip-l-336": ("CLIPConfig", {"vision_config": vit(1024, 4096, 24, 16, 336, 14)}, "CLIPImageProcessor", cropped(336)),
    "clip-big-g": ("CLIPConfig", {"vision_config": vit(1664, 8192, 48, 16, 224, 14)}, "CLIPImageProcessor", {}),
    "metaclip2": ("MetaClip2Config", {"vision_config": vit(1664, 8192, 48, 16, 378, 14),
        "text_config": {"vocab_size": 901_629}}, "CLIPImageProcessor", cropped(378)),
    "eva-18b": ("CLIPConfig", {"vision_config": vit(5120, 25_600, 48, 40, 224, 14)}, "CLIPImageProcessor", {}),
    "internvl3-78b": ("InternVLConfig", {"vision_config": vit(3200, 12_800, 45, 25, 448, 14), "text_config": {
        "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29_568, "vocab_size": 151_674, "rope_theta": 1e6}},
        "GotOcr2ImageProcessor", {**square(448), "crop_to_patches": True, "max_patches": 12}),
    "qwen2-vl-72b": ("Qwen2VLConfig", {"vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 8192, "in_chans": 3},
        "text_config": {"hidden_size": 8192, "num_hidden_layers": 80, "vocab_size": 152_064}},
        "Qwen2VLImageProcessor", {"min_pixels": 3136, "max_pixels": 12_845_056}),
    "qwen2.5-vl-7b": ("Qwen2_5_VLConfig", {"vision_config": {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
        "text_config": {"max_position_embeddings": 128_000}}, "Qwen2VLImageProcessor",
        {"size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}),
    "qwen3-vl-235b": ("Qwen3VLMoeConfig", {"vision_config": {"num_position_embeddings": 2304, "out_hidden_size": 4096},
        "text_config": {"num_experts": 128, "num_hidden_layers": 94, "max_position_embeddings": 262_144}},
        "Qwen3VLVideoProcessor", {"size": {"shortest_edge": 4096, "longest_edge": 25_165_824}}),
    "qwen3-omni": ("Qwen3OmniMoeConfig", {}, None, {}),
    "qwen2.5-omni": ("Qwen2_5OmniConfig", {}, None, {}),
    "llava-next-34b": ("LlavaNextConfig", {
        "vision_config": {"model_type": "clip_vision_model", **vit(1024, 4096, 24, 16, 336, 14)},
        "text_config": {"model_type": "llama", "hidden_size": 7168, "num_hidden_layers": 60, "vocab_size": 64_064},
        "image_grid_pinpoints": [[336, 672], [1008, 336]]}, "LlavaNextImageProcessor", cropped(336)),
    "llava-onevision-72b": ("LlavaOnevisionConfig", {"vision_config": {"model_type": "siglip_vision_model",
        **vit(1152, 4304, 26, 16, 384, 14)}}, "LlavaOnevisionImageProcessor", {}),
    "video-llava": ("VideoLlavaConfig", {}, "VideoLlavaImageProcessor", {}),
    "idefics": ("IdeficsConfig", {"vision_config": {"embed_dim": 1280, "num_hidden_layers": 32}}, "IdeficsImageProcessor", {}),
    "idefics2": ("Idefics2Config", {"vision_config": vit(*SO400M, 980, 14)}, "Idefics2ImageProcessor",
        {"size": {"longest_edge": 980, "shortest_edge": 378}}),
    "idefics3": ("Idefics3Config", {"vision_config": vit(*SO400M, 364, 14)}, "Idefics3ImageProcessor",
        {"size": {"longest_edge": 5 * 364}, "max_image_size": {"longest_edge": 364}}),
    "smolvlm-256m": ("Idefics3Config", {"vision_config": vit(768, 3072, 12, 12, 512, 16)}, "Idefics3ImageProcessor",
        {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}),
    "smolvlm2": ("SmolVLMConfig", {"vision_config": vit(*SO400M, 384, 14)}, "SmolVLMImageProcessor",
        {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}),
    "pixtral-12b": ("LlavaConfig", {"vision_config": {"model_type": "pixtral", **vit(1024, 4096, 24, 16, 1024, 16)},
        "text_config": MISTRAL}, "PixtralImageProcessor", {"size": {"longest_edge": 1024}, "patch_size": square(16)["size"]}),
    "mistral-small-3.1": ("Mistral3Config", {"vision_config": {"model_type": "pixtral", **vit(1024, 4096, 24, 16, 1540, 14)},
        "text_config": MISTRAL}, "PixtralImageProcessor", {"size": {"longest_edge": 1540}, "patch_size": 14}),
    "dinov2-giant": ("Dinov2Config", vit(1536, 6144, 40, 24, 518, 14, use_swiglu_ffn=True), "BitImageProcessor",
        {"size": {"shortest_edge": 256}, "crop_size": 224}),
    "dinov3-7b": ("DINOv3ViTConfig", vit(4096, 8192, 40, 32, 224, 16, num_register_tokens=4, rope_theta=100.0),
        "DINOv3ViTImageProcessor", square(224)),
    "ijepa-giant": ("IJepaConfig", vit(1408, 6144, 40, 16, 448, 16), "ViTImageProcessor", square(448)),
    "vit-22b": ("ViTConfig", vit(6144, 24_576, 48, 48, 224, 14, num_labels=29_593), "ViTImageProcessor", {}),
    "beit-large-640": ("BeitConfig", vit(1024, 4096, 24, 16, 640, 16, use_relative_position_bias=True), "BeitImageProcessor",
        {"size": 640}),
    "swinv2-large-384": ("Swinv2Config", {**SWIN_L, "window_size": 24, "image_size": 384,
        "pretrained_window_sizes": [12, 12, 12, 6]}, "ViTImageProcessor", square(384)),
    "swin-large-4096": ("SwinConfig", {**SWIN_L, "window_size": 12, "image_size": 4096}, "ViTImageProcessor", square(4096)),
    "donut": ("DonutSwinConfig", {"depths": [2, 2, 14, 2], "window_size": 10, "image_size": [2560, 1920]}, "DonutImageProcessor",
        {"size": {"height": 2560, "width": 1920}}),
    "donut-4096": ("DonutSwinConfig", {"image_size": [4096, 3072]}, "DonutImageProcessor",
        {"size": {"height": 4096, "width": 3072}}),
    "sam-vit-h": ("SamConfig", {"vision_config": {"hidden_size": 1280, "mlp_dim": 5120, "num_hidden_layers": 32}},
        "SamImageProcessor", {}),
    "sam2": ("Sam2Config", {}, "Sam2ImageProcessor", {}),
    "gemma3-27b": ("Gemma3Config", {"vision_config": vit(*SO400M, 896, 14), "text_config": {"hidden_size": 5376,
        "intermediate_size": 21_504, "num_hidden_layers": 62, "vocab_size": 262_208, "max_position_embeddings": 131_072}},
        "Gemma3ImageProcessor", square(896)),
    "llama4-scout": ("Llama4Config", {"text_config": {"max_position_embeddings": 10_485_760, "vocab_size": 202_048}},
        "Llama4ImageProcessor", {}),
    "mllama-90b": ("MllamaConfig", {"vision_config": {"image_size": 560, "vision_output_dim": 7680}}, "MllamaImageProcessor",
        square(560)),
    "paligemma2-896": ("PaliGemmaConfig", {"vision_config": {"model_type": "siglip_vision_model", **vit(*SO400M, 896, 14)},
        "text_config": {"model_type": "gemma2", "vocab_size": 257_216}}, "SiglipImageProcessor", square(896)),
    "glm-4.1v": ("Glm4vConfig", {}, "Glm4vVideoProcessor", {"size": {"shortest_edge": 12_544, "longest_edge": 47_040_000}}),
    "vjepa2-giant": ("VJEPA2Config", {"hidden_size": 1408, "num_attention_heads": 22, "crop_size": 384, "mlp_ratio": 48 / 11},
        "VJEPA2VideoProcessor", {}),
    "efficientnet-b7": ("EfficientNetConfig", {"image_size": 600, "hidden_dim": 2560, "width_coefficient": 2.0},
        "EfficientNetImageProcessor", square(600)),
    "regnet-10b": ("RegNetConfig", {"hidden_sizes": [2020, 4040, 11_110, 28_280], "depths": [2, 7, 17, 1]},
        "ConvNextImageProcessor", {}),
    "mask2former": ("Mask2FormerConfig", {}, "Mask2FormerImageProcessor",
        {"size": {"shortest_edge": 2048, "longest_edge": 2048}}),
    "owlv2": ("Owlv2Config", {"vision_config": {"image_size": 1008, "patch_size": 14}}, "Owlv2ImageProcessor", square(1008)),
    "depth-pro": ("DepthProConfig", {}, "DepthProImageProcessor", {}),
    "embedding-gemma": ("Gemma3nConfig", {}, "EmbeddingGemma2VideoProcessor", {}),
}  # fmt: skip
"""Name: the config class, its arguments, the processor class, and its arguments."""

REMOTE: list[dict[str, Any]] = [
    {"kv_channels": 128, "seq_length": 2048, "visual": {"heads": 16, "image_size": 448, "image_start_id": 151_857, "layers": 48,
        "mlp_ratio": 4.9231, "output_dim": 4096, "patch_size": 14, "width": 1664}},
    {"model_type": "internvl_chat", "force_image_size": 448, "downsample_ratio": 0.5, "select_layer": -1, "use_llm_lora": 0,
        "llm_config": {"vocab_size": 92_553, "rope_scaling": {"factor": 2.0}, "max_length": 20},
        "vision_config": {"image_size": 448, "patch_size": 14, "initializer_factor": 1.0}},
    {"vision_config": {"hidden_size": 1792, "image_size": 1344, "in_channels": 3, "num_positions": 9217, "patch_size": 14}},
    {"vision_config": {"head_width": 112, "image_size": 448, "layers": 64, "mlp_ratio": 8.571428571428571, "width": 1792}},
    {"vision_config": {"patch_size": [7, 3, 3, 3], "dim_embed": [256, 512, 2048], "depths": [1, 1, 9, 1], "window_size": 12}},
    {"hidden_size": 7168, "n_routed_experts": 384, "num_hidden_layers": 61, "vocab_size": 163_840},
    {"num_local_experts": 0, "num_experts": 0, "moe_intermediate_size": 0, "intermediate_size": 8192},
    {"num_key_value_heads": None, "intermediate_size": None, "block_configs": [{"attention": {"n_heads_in_group": 8}}]},
    {"num_query_heads": [12, 12], "num_kv_heads": [3, 3], "head_dim": 64, "ffn_multipliers": [0.5, 0.73]},
    {"args": {"train_num_samples": 12_800_000_000, "seed": 42, "batch_size": 8}, "patch_size": 16, "max_resolution": 2048},
    {"training_tokens": 15_000_000_000_000, "sliding_window": 2**31 - 1},
    {"tokenizer_model_max_length": 10**30, "mm_vision_tower_lr": 2e-6, "image_crop_resolution": None},
    {"vision_tower_cfg": {"image_size": 384, "patch_size": 14}, "mm_projector_cfg": {}},
    {"vocoder_config": {"in_channels": 2048, "dilations": [1, 3, 5]}, "in_channels": [512, 1024, 2048]},
    {"num_images": -1, "max_image_length": -1, "image_size": 384, "patch_size": 32},
    {"patch_size": [2, 4, 4], "window_size": [8, 7, 7], "image_size": 224},
    {"image_size": None, "patch_size": 14},
]  # fmt: skip
"""Configs of models with code of their own, and of language models."""

NULLS = ("crop_size", "data_format", "device", "do_center_crop", "do_convert_rgb", "do_pad", "input_data_format", "pad_size",
         "return_tensors", "size")  # fmt: skip
"""What the torchvision-backed processors of transformers 4 wrote as null where a class does not set it."""
