"""Tiny multimodal checkpoints: transformers' own classes with random weights, saved with tokenizer and processor."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MistralConfig,
    PixtralImageProcessorPil,
    PixtralProcessor,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

SIDE = 28
LIMIT = 12
"""The number of tokens that are generated."""
SQUARE = {"height": SIDE, "width": SIDE}
QUESTION = "What is in the picture, and where?"
WORDS = (
    "What is in the picture, and where? The cat and the dog are on a red mat. Compare these two photos. USER ASSISTANT"
)
SPECIAL = [
    "<pad>", "<s>", "</s>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>", "<|im_start|>", "<|im_end|>",
    "[IMG]", "[IMG_BREAK]", "[IMG_END]",
]  # fmt: skip
PINPOINTS = [[rows * SIDE, cols * SIDE] for rows in (1, 2, 3) for cols in (1, 2, 3)]
VISION: dict[str, Any] = {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 7, "initializer_range": 0.3}
# the templates of the published checkpoints, as far as a question needs them
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}"
    "{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
PIXTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '[INST]' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% endfor %}"
)
VIPLLAVA_TEMPLATE = (
    "{% for message in messages %}{{ '###' + message['role'].title() + ': '}}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"
)


def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE; `named` are special tokens with names of their own, as a model's processor asks for them."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        [WORDS], trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", eos_token="</s>", padding_side="left", extra_special_tokens=named
    )


def text(kind: Any = Qwen2Config, **more: Any) -> Any:
    """A text config of two layers, whose weights are large enough for the picture to matter."""
    sizes = {"vocab_size": 340, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    return kind(**sizes, **heads, pad_token_id=0, eos_token_id=2, bos_token_id=None, **more)


@dataclass(frozen=True)
class Theirs:
    """transformers' model and processor, as they were before they were saved in `folder`."""

    folder: Path
    model: Any
    processor: Any

    def answers(self, rows: list[list[Image.Image]], question: str = QUESTION) -> list[list[int]]:
        """Return the ids that the model generates, greedily, for a batch of questions about one or more pictures each."""
        asked = [
            [
                {
                    "role": "user",
                    "content": [*({"type": "image", "image": p} for p in row), {"type": "text", "text": question}],
                }
            ]
            for row in rows
        ]
        inputs = self.processor.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
        )
        with torch.no_grad():
            made = self.model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
        answers = made[:, inputs["input_ids"].shape[1] :].tolist()
        return [answer[: answer.index(2)] if 2 in answer else answer for answer in answers]


def _saved(folder: Path, model: Any, processor: Any) -> Theirs:
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones at first, which would hide a wrong key
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.generation_config.pad_token_id = 0
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return Theirs(folder, model, processor)


def onevision(folder: Path, **more: Any) -> Theirs:
    """LLaVA-OneVision with SigLIP, saved in `folder`."""
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, vision_use_head=False, **VISION
    )
    words = tokenizer()
    ids = {"image_token_index": SPECIAL.index("<image>"), "video_token_index": SPECIAL.index("<video>")}
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text(), image_grid_pinpoints=PINPOINTS, **{**ids, **more}
    )
    model: Any = LlavaOnevisionForConditionalGeneration(config)
    pictures = LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    videos = LlavaOnevisionVideoProcessor(size=SQUARE)
    processor = LlavaOnevisionProcessor(
        pictures,
        words,
        videos,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )
    return _saved(folder, model, processor)


def vipllava(folder: Path, **more: Any) -> Theirs:
    """ViP-LLaVA with CLIP, saved in `folder`."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=6, **VISION)
    layers = more.pop("vision_feature_layer", [-2, -3, -5, 6])
    # every version takes the plural, which the newer ones save as the singular
    settings = {"vision_feature_layers": layers, "image_token_index": SPECIAL.index("<image>"), **more}
    model: Any = VipLlavaForConditionalGeneration(
        VipLlavaConfig(vision_config=vision, text_config=text(LlamaConfig), **settings)
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    processor = LlavaProcessor(
        pictures,
        tokenizer(),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VIPLLAVA_TEMPLATE,
    )
    return _saved(folder, model, processor)


def internvl(folder: Path, *, tiles: int = 6, vision: dict[str, Any] | None = None, **more: Any) -> Theirs:
    """InternVL, saved in `folder`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, **VISION, **(vision or {})}
    settings = {"image_token_id": SPECIAL.index("<IMG_CONTEXT>"), "image_seq_length": 4, **more}
    model: Any = InternVLForConditionalGeneration(
        InternVLConfig(vision_config=InternVLVisionConfig(**sizes), text_config=text(), **settings)
    )
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(size=SQUARE, max_patches=tiles, crop_to_patches=True),
        tokenizer(**named, video_token="<video>"),
        InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=INTERNVL_TEMPLATE,
    )
    return _saved(folder, model, processor)


def pixtral(folder: Path, **more: Any) -> Theirs:
    """LLaVA with a Pixtral tower, laid out as `mistral-community/pixtral-12b`, saved in `folder`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
    vision = PixtralVisionConfig(**sizes, **{**VISION, "image_size": 70})
    settings = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", **more}
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text(MistralConfig), image_token_index=SPECIAL.index("[IMG]"), **settings
        )
    )
    pictures = PixtralImageProcessorPil(size={"longest_edge": 70}, patch_size={"height": 7, "width": 7})
    processor = PixtralProcessor(pictures, tokenizer(), patch_size=7, chat_template=PIXTRAL_TEMPLATE)
    return _saved(folder, model, processor)


def gemma3(folder: Path) -> None:
    """Gemma 3, which is not run as a whole model, saved in `folder`."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, **VISION}
    words = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma3Config(text_config={**words, **heads}, vision_config=sizes, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    Gemma3ImageProcessor(size=SQUARE).save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    """Qwen2-VL, which is not run as a whole model, saved in `folder`."""
    rotary = {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 10000.0}}
    words = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, **rotary}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 24, "patch_size": 14}
    Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config={**words, **heads}, vision_config=vision)
    ).save_pretrained(folder)
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
    Qwen2VLImageProcessor(size=size).save_pretrained(folder)


TO_ORIGINAL = (
    (r"^model\.vision_tower\.embeddings\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^model\.vision_tower\.embeddings\.position_embeddings$", "vision_model.embeddings.position_embedding"),
    (
        r"^model\.vision_tower\.embeddings\.patch_embeddings\.projection\.",
        "vision_model.embeddings.patch_embedding.",
    ),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.attention\.projection_layer\.", r"vision_model.encoder.layers.\1.attn.proj."),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.attention\.([qk])_norm\.", r"vision_model.encoder.layers.\1.attn.\2_norm."),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.layernorm_before\.", r"vision_model.encoder.layers.\1.norm1."),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.layernorm_after\.", r"vision_model.encoder.layers.\1.norm2."),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.lambda_([12])$", r"vision_model.encoder.layers.\1.ls\2"),
    (r"^model\.vision_tower\.encoder\.layer\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^model\.multi_modal_projector\.layer_norm\.", "mlp1.0."),
    (r"^model\.multi_modal_projector\.linear_1\.", "mlp1.1."),
    (r"^model\.multi_modal_projector\.linear_2\.", "mlp1.3."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)  # fmt: skip
QKV = re.compile(r"^model\.vision_tower\.encoder\.layer\.(\d+)\.attention\.q_proj\.(weight|bias)$")


def original_internvl(theirs: Theirs, folder: Path, **more: Any) -> Path:
    """The model of `internvl` as InternVL's authors publish theirs; `more` goes into its config.json."""
    folder.mkdir(parents=True)
    source, state = theirs.model.state_dict(), {}
    for key, tensor in source.items():
        if found := QKV.match(key):
            joined = [source[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            state[f"vision_model.encoder.layers.{found[1]}.attn.qkv.{found[2]}"] = torch.cat(joined)
        elif not re.search(r"vision_tower.*\.[kv]_proj\.", key):
            names = [re.sub(pattern, name, key) for pattern, name in TO_ORIGINAL if re.search(pattern, key)]
            state[names[0]] = tensor.clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    vision = theirs.model.config.vision_config
    kept = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "norm_type",
        "layer_norm_eps",
    )
    old = {
        "_name_or_path": "",
        "attn_implementation": "flash_attention_2",
        "torch_dtype": "float32",
        "use_bfloat16": True,
    }
    llm = {**theirs.model.config.text_config.to_dict(), **old, "architectures": ["Qwen2ForCausalLM"]}
    config = {
        "_commit_hash": None,
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": SIDE,
        "llm_config": llm,
        "max_dynamic_patch": 6,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            **{key: getattr(vision, key) for key in kept},
            "architectures": ["InternVisionModel"],
            "image_size": SIDE,
            "model_type": "intern_vit_6b",
            "patch_size": 7,
            "qk_normalization": vision.use_qk_norm,
            "qkv_bias": vision.attention_bias,
            "torch_dtype": "float32",
            "use_flash_attn": True,
        },
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config))
    pictures = {
        "crop_size": SIDE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": SIDE,
    }
    values = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    pictures |= {"feature_extractor_type": "CLIPFeatureExtractor", **values}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    theirs.processor.tokenizer.save_pretrained(folder)
    return folder
