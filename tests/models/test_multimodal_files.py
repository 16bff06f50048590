"""Multimodal checkpoints with other files than those that transformers writes today, and those that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import multimodal
import pytest
import torch
from multimodal import LIMIT, QUESTION, Theirs
from safetensors.torch import load_file, save_file

from vita_core import build_model
from vita_core.errors import CheckpointError, ConfigError
from vita_core.layouts import internvl, internvl_hf, onevision_hf, pixtral_hf, vipllava_hf
from vita_core.pixels.images import open_picture
from vita_core.planning.resolution import resolve
from vita_core.training.train import train


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    return multimodal.vipllava(tmp_path)


def test_the_processors_older_file_of_its_chat_template(theirs: Theirs, golden: Path) -> None:
    """Until transformers 4.48 it was chat_template.json; the tokenizer may have another one, for texts."""
    template = (theirs.folder / "chat_template.jinja").read_text()
    (theirs.folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (theirs.folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    photo = open_picture(golden / "pictures" / "wide.png")
    model = build_model(checkpoint=theirs.folder, overrides=["device=cpu"])
    assert model.ask(photo, QUESTION, max_new_tokens=LIMIT).token_ids == theirs.answers([[photo]])[0]


def test_without_a_chat_template_vipllava_has_its_own_format(theirs: Theirs) -> None:
    assert resolve(theirs.folder).config.prompt.template == "chat"
    (theirs.folder / "chat_template.jinja").unlink()
    assert resolve(theirs.folder).config.prompt.template == "vipllava"


def test_keys_of_older_versions(theirs: Theirs, golden: Path) -> None:
    """transformers 4.52 to 4.57 saved `model.language_model`, `model.vision_tower.vision_model`, `lm_head`."""
    file, state = theirs.folder / "model.safetensors", {}
    for key, tensor in load_file(file).items():
        name = key.replace("language_model.lm_head", "lm_head").replace("language_model.model", "model.language_model")
        name = name.replace("vision_tower.", "model.vision_tower.vision_model.").replace(
            "multi_modal", "model.multi_modal"
        )
        state[name] = tensor
    save_file(state, file, metadata={"format": "pt"})
    photo = open_picture(golden / "pictures" / "tall.png")
    model = build_model(checkpoint=theirs.folder, overrides=["device=cpu"])
    assert model.ask(photo, QUESTION, max_new_tokens=LIMIT).token_ids == theirs.answers([[photo]])[0]


def test_unknown_tensors_are_refused(theirs: Theirs) -> None:
    file = theirs.folder / "model.safetensors"
    save_file({**load_file(file), "image_newline": torch.zeros(24)}, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"does not have ViP-LLaVA's layout: 1 unexpected tensors \(image_newline\)"
    ):
        build_model(checkpoint=theirs.folder)


def test_sizes_that_older_versions_leave_out(theirs: Theirs) -> None:
    """A text config without a size has the library's default, also in the plan."""
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    from vita_core.layouts.hf import SIZES, text_config

    for kind in (LlamaConfig(), MistralConfig(), Qwen2Config()):
        found = text_config({"text_config": {"model_type": kind.model_type}}, "llama")
        wanted = {key: getattr(kind, key) for key in SIZES}
        assert {key: found.get(key, found["num_attention_heads"]) for key in SIZES} == wanted


def test_the_values_of_missing_keys(tmp_path: Path) -> None:
    """LLaVA-OneVision's processor has other means than SigLIP's, in whose name its tiles are processed."""
    from transformers import LlavaOnevisionImageProcessorPil

    multimodal.onevision(tmp_path)
    file = tmp_path / "processor_config.json"
    content = json.loads(file.read_text())
    del content["image_processor"]["image_mean"], content["image_processor"]["image_std"]
    file.write_text(json.dumps(content))
    processor = resolve(tmp_path).tower.processor
    assert processor["image_mean"] == list(LlavaOnevisionImageProcessorPil.image_mean)
    assert processor["image_std"] == list(LlavaOnevisionImageProcessorPil.image_std)


QUICK = [
    "training={steps: 2, batch_size: 4, warm_start_steps: 1, warm_start_batch: 4, variants: 0, held_out: 0, save_steps: 2}",
    "device=cpu",
]


@pytest.mark.parametrize("kind", ["onevision", "internvl", "pixtral"])
def test_a_projector_that_was_trained_again(tmp_path: Path, captioned: Path, golden: Path, kind: str) -> None:
    """`vita train DIR` writes a config that opens the checkpoint with the new projector."""
    folder, out = tmp_path / "checkpoint", tmp_path / "trained"
    getattr(multimodal, kind)(folder)
    overrides = [*QUICK, "prompt.row_tokens=null"] if kind == "pixtral" else QUICK
    train(resolve(folder, overrides), [captioned], out)
    model, before = build_model(out, overrides=["device=cpu"]), build_model(folder, overrides=["device=cpu"])
    changed = [
        not torch.equal(a, b) for a, b in zip(model.projector.parameters(), before.projector.parameters(), strict=True)
    ]
    assert any(changed)
    photo = open_picture(golden / "pictures" / "wide.png")
    assert model.ask(photo, QUESTION, max_new_tokens=LIMIT).token_ids
    model.save(tmp_path / "saved")
    reopened = build_model(tmp_path / "saved", overrides=["device=cpu"])
    first = model.ask(photo, QUESTION, max_new_tokens=LIMIT).token_ids
    assert reopened.ask(photo, QUESTION, max_new_tokens=LIMIT).token_ids == first


def test_training_writes_no_row_tokens(tmp_path: Path, captioned: Path) -> None:
    multimodal.pixtral(tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match=r"prompt.row_tokens: training does not write the tokens \[IMG_BREAK\]"):
        train(resolve(tmp_path / "checkpoint", QUICK), [captioned], tmp_path / "trained")


VISION = {"vision_config": {"model_type": "any"}}


@pytest.mark.parametrize(
    ("layout", "config", "wrong"),
    [
        (onevision_hf, {"vision_aspect_ratio": "pad"}, "vision_aspect_ratio: unknown value: 'pad'"),
        (internvl_hf, {"vision_feature_layer": [-1, -2]}, r"vision_feature_layer \[-1, -2\] with"),
        (
            internvl_hf,
            {"vision_feature_select_strategy": "full"},
            "strategy 'full': transformers' InternVL does not run",
        ),
        (internvl, {"template": "internvl2_6"}, "template: unknown value: 'internvl2_6'. Did you mean 'internvl2_5'"),
        (internvl, {"ps_version": "v1"}, "ps_version: unsupported value: 'v1'"),
        (internvl, {"force_image_size": 448}, "force_image_size: unsupported value: 448"),
        (internvl, {"pad2square": True}, "pad2square: unsupported value: True"),
        (pixtral_hf, {"vision_feature_select_strategy": "default"}, "'default' drops a patch of a Pixtral tower"),
        (
            vipllava_hf,
            {"vision_config": {"model_type": "siglip_vision_model"}},
            "a 'siglip_vision_model' tower is a patch",
        ),
        (onevision_hf, {"projector_hidden_act": "relu"}, "unsupported projector: projector_hidden_act 'relu'"),
    ],
)
def test_what_a_config_cannot_express(layout: Any, config: dict[str, Any], wrong: str) -> None:
    with pytest.raises(CheckpointError, match=wrong):
        layout.LAYOUT.sections(VISION | config, 28)
