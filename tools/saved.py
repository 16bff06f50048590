"""Write the directories that the code of today saves to tests/fixtures/saved-VERSION, with what they give.

`python tools/saved.py` is run once before the release of a version. tests/models/test_saved_before.py opens these directories
for ever.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vita_core import build_model
from vita_core.language.merging import merge
from vita_core.pixels.fused import FusedPixels
from vita_core.planning.resolution import resolve
from vita_core.training.running import run_stages
from vita_core.training.train import train

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "tests" / "fixtures" / "golden" / "pictures"
QUESTION = "what is this ?"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28}
WORDS = [
    "<pad>",
    "<eos>",
    "<unk>",
    "user:",
    "assistant:",
    "a",
    "cat",
    "dog",
    "cup",
    "what",
    "is",
    "this",
    "of",
    "?",
    ".",
]
CAPTIONS = {"wide.png": "a cat .", "tall.png": "a dog .", "square.png": "a cup ."}
STEPS = {"learning_rate": 1e-2, "batch_size": 2, "steps": 3}
ALIGN = {"name": "align", "train": {"projector": "full", "reduce": "full"}, "prompt": "plain", **STEPS}
ADAPT = {"projector": "full", "reduce": "full", "llm": {"lora": {"rank": 2}}, "tower": {"lora": {"rank": 2}}}
WHOLE = {"projector": "full", "llm": "full", "tower": {"from_layer": 1}}
RESAMPLER = {"type": "resampler", "queries": 4, "width": 16, "heads": 2}


def encoders(folder: Path) -> None:
    """Save a CLIP and a SigLIP of 28 pixels with their processors, and a Llama with a tokenizer."""
    side = {"height": 28, "width": 28}
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(patch_size=14, **SIZES)).save_pretrained(folder / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=side).save_pretrained(folder / "clip")
    SiglipVisionModel(SiglipVisionConfig(patch_size=14, **SIZES)).save_pretrained(folder / "siglip")
    SiglipImageProcessorPil(size=side).save_pretrained(folder / "siglip")
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder / "llm")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=128, eos_token_id=1, pad_token_id=0, **sizes)
    config.bos_token_id = None
    LlamaForCausalLM(config).save_pretrained(folder / "llm")


def configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a config for each way of saving, by the name of its directory."""
    clip, siglip = {"weights": str(folder / "clip")}, {"weights": str(folder / "siglip")}
    shared = {"llm": {"weights": str(folder / "llm")}, "generation": {"max_new_tokens": 4}, "device": "cpu"}
    data = {"captions": {"path": str(folder / "pictures" / "captions.jsonl"), "held_out": 0.25}}
    return {
        "model": {"tower": clip, **shared},
        "fused": {"tower": {"towers": [clip, siglip]}, **shared},
        "flat": {"tower": {**clip, "reduce": RESAMPLER}, **shared, "training": {"steps": 3, "batch_size": 2}},
        "adapters": {
            "tower": {**siglip, "reduce": RESAMPLER},
            **shared,
            "data": data,
            "training": {"stages": [ALIGN, {"name": "finetune", "train": ADAPT, **STEPS}]},
        },
        "whole": {
            "tower": clip,
            **shared,
            "data": data,
            "training": {"stages": [{"name": "all", "train": WHOLE, **STEPS}]},
        },
    }


def write(out: Path) -> None:
    """Write the directories, and beside them what they were made of."""
    encoders(out)
    shutil.copytree(PICTURES, out / "pictures")
    rows = [json.dumps({"image": name, "caption": told}) for name, told in CAPTIONS.items()] * 4
    (out / "pictures" / "captions.jsonl").write_text("".join(f"{row}\n" for row in rows))
    for name, config in configs(out).items():
        torch.manual_seed(1)
        if name == "flat":
            train(config, [out / "pictures" / "captions.jsonl"], out / name)
        elif "data" in config:
            run_stages(resolve(config), out / name)
        else:
            build_model(config).save(out / name)
        for extra in ("work", "metrics.jsonl", "held_out.jsonl"):
            shutil.rmtree(out / name / extra, ignore_errors=True)
            (out / name / extra).unlink(missing_ok=True)
        for file in (out / name / "config.yaml", out / name / "provenance.json"):  # the paths of this machine
            file.write_text(file.read_text().replace(f"{out}/", "../"))
        save_file(given(out / name), out / name / "expected.safetensors")
    shutil.rmtree(out / "pictures")


def given(directory: Path) -> dict[str, torch.Tensor]:
    """Return the pixels (1, 3, H, W) of a picture for each encoder, its projected tokens (N, D), and logits (T, V)."""
    model = build_model(directory)
    ids = model.llm.prompt(model.settings.prompt, QUESTION, 1)
    with torch.inference_mode():
        prepared = model.prepare(PICTURES / "wide.png")
        tokens = model.encode_images(prepared.pixels).flatten(0, 1)
        embeds, mask = merge([ids], [[tokens]], model.llm.embed)
        logits = model.llm.model(inputs_embeds=embeds, attention_mask=mask).logits[0]
    parts = prepared.pixels.parts if isinstance(prepared.pixels, FusedPixels) else [prepared.pixels]
    pixels = {f"pixels-{place}": part.contiguous() for place, part in enumerate(parts)}
    return {**pixels, "tokens": tokens.contiguous(), "logits": logits.contiguous()}


if __name__ == "__main__":
    place = ROOT / "tests" / "fixtures" / f"saved-{version('vita-core').rpartition('.')[0]}"
    if place.exists():
        sys.exit(f"{place.name} is there: what a version saved stays as it was")
    write(place)
