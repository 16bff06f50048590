"""Encoders of two libraries as one tower, from `vita train` to an answer of `vita run`, through the real commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import vita
from safetensors.torch import load_file

from vita_core import build_model, build_tower
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.weights.files import sha256

TRAINING = (
    "{steps: 4, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1, held_out: 0.25, eval_steps: 2}"
)


@pytest.fixture
def fused_config(golden: Path, tiny_llm: Path, tmp_path: Path) -> Path:
    """A SigLIP that transformers wrote, 4 x 4 tokens of 56 pixels, and a ViT that timm wrote, 8 x 8 of 64, pooled to 4 x 4."""
    arguments = {"img_size": 64, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
    torch.manual_seed(0)
    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", **arguments), tmp_path / "timm", model_args=arguments
    )
    file = tmp_path / "fused.yaml"
    file.write_text(
        "tower:\n"
        "  towers:\n"
        f"    - {{weights: {golden / 'siglip'}, select_layer: -2}}\n"
        "    - {weights: ./timm, reduce: {type: pool, window: 2}}\n"
        f"llm: {{weights: {tiny_llm}}}\n"
        f"training: {TRAINING}\n"
        "generation: {max_new_tokens: 5}\ndevice: cpu\n"
    )
    return file


@pytest.mark.slow
def test_train_then_run(fused_config: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    out, picture = tmp_path / "out", golden / "pictures" / "wide.png"
    trained = vita("train", fused_config, "--data", captioned, "--out", out)
    assert trained.returncode == 0, trained.stderr
    record = json.loads((out / "provenance.json").read_text())
    parts = [{"weights": str(golden / "siglip")}, {"weights": str(tmp_path / "timm")}]
    named = record["weights"]["tower"]["parts"]
    assert [{"weights": part["weights"]} for part in named] == parts
    file = golden / "siglip" / "model.safetensors"
    assert named[0]["files"] == {file.name: sha256(file)}
    own = [parts[0] | {"select_layer": -2}, parts[1] | {"reduce": {"type": "pool", "window": 2}}]
    state = {key: value.float() for key, value in load_file(out / "projector.safetensors").items()}
    model = build_model(out)
    pixels: Any = model.prepare(picture).pixels
    with torch.no_grad():
        tokens = torch.cat([build_tower(part)(seen) for part, seen in zip(own, pixels.parts, strict=True)], dim=-1)
        hidden = F.gelu(F.linear(tokens, state["0.weight"], state["0.bias"]))
        expected = F.linear(hidden, state["2.weight"], state["2.bias"])
        torch.testing.assert_close(model.encode_images(pixels), expected)
        untrained = build(resolve(fused_config), untrained=True).encode_images(pixels)
    assert (untrained - expected).abs().max() > 1e-2
    answered = vita("run", out, "--image", picture, "--question", "what is this ?", "--json")
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert answer["visual_tokens"] == 16
    assert answer["text"] == model.ask(picture, "what is this ?").text
