"""What an earlier version saved opens, and gives what it gave then. tools/saved.py wrote these directories once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from safetensors.torch import load_file

from vita_core import build_model, make_plan
from vita_core.language.merging import merge
from vita_core.pixels.fused import FusedPixels

SAVED = sorted(file.parent for file in GOLDEN.parent.glob("saved-*/*/expected.safetensors"))


def label(directory: Path) -> str:
    return f"{directory.parent.name}/{directory.name}"


def test_every_way_of_saving_is_kept() -> None:
    """A saved model, with several encoders; trained without stages, with adapters, and whole parts."""
    assert {directory.name for directory in SAVED} == {"model", "fused", "flat", "adapters", "whole"}
    parts = {entry.name for directory in SAVED for entry in directory.iterdir()}
    assert parts >= {"tower", "llm", "llm-adapter", "tower-adapter", "projector.safetensors", "reduce-0.safetensors"}


@pytest.mark.parametrize("directory", SAVED, ids=label)
@pytest.mark.reliability(
    door="saved directories",
    fault="those of version 0.1",
    expected="they open, with the values of then",
)
def test_it_opens_with_the_values_of_then(directory: Path) -> None:
    expected = load_file(directory / "expected.safetensors")
    model = build_model(directory)
    prepared = model.prepare(GOLDEN / "pictures" / "wide.png").pixels
    found = prepared.parts if isinstance(prepared, FusedPixels) else [prepared]
    pixels = [expected[name] for name in sorted(expected) if name.startswith("pixels-")]
    for own, before in zip(found, pixels, strict=True):
        torch.testing.assert_close(own, before, atol=1e-5, rtol=0)
    ids = model.llm.prompt(model.settings.prompt, "what is this ?", 1)
    with torch.inference_mode():
        tokens = model.encode_images(FusedPixels(pixels) if len(pixels) > 1 else pixels[0]).flatten(0, 1)
        embeds, mask = merge([ids], [[tokens]], model.llm.embed)
        logits = model.llm.model(inputs_embeds=embeds, attention_mask=mask).logits[0]
    torch.testing.assert_close(tokens, expected["tokens"], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    assert make_plan(directory).tokens == len(tokens)


def test_the_values_of_then_are_the_librarys() -> None:
    """The tower of a saved model is a CLIP of transformers, whose tokens the projector gets."""
    from transformers import CLIPVisionModel

    directory = GOLDEN.parent / "saved-0.1" / "model"
    expected, projector = load_file(directory / "expected.safetensors"), load_file(directory / "projector.safetensors")
    whole = CLIPVisionModel.from_pretrained(directory.parent / "clip", dtype=torch.float32)
    with torch.no_grad():
        tokens = whole(expected["pixels-0"], output_hidden_states=True).hidden_states[-2][0, 1:]
    first = tokens @ projector["0.weight"].T + projector["0.bias"]
    projected = torch.nn.functional.gelu(first) @ projector["2.weight"].T + projector["2.bias"]
    torch.testing.assert_close(projected, expected["tokens"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("directory", SAVED, ids=label)
def test_nothing_in_it_is_of_the_machine_that_wrote_it(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.suffix in (".json", ".yaml"):
            text = file.read_text(encoding="utf-8")
            assert not [start for start in ("/home", "/root", "/tmp", "/work", "/Users") if f"{start}/" in text]
    assert json.loads((directory / "provenance.json").read_text(encoding="utf-8"))["made_by"]["vita-core"] == "0.1.0"
