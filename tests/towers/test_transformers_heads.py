"""Tower `transformers` on models that the library saved with other parts beside the encoder, in dtypes, and without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import close
from families import CONFIGS, MODELS, TEXT, VISION, library_states, patches_of, saved, settings, small, whole
from PIL import Image

from vita_core import build_tower

HEADED: dict[str, tuple[str, str]] = {
    "convnext": ("ConvNextBackbone", ""),
    "deit": ("DeiTForMaskedImageModeling", "deit"),
    "swin": ("SwinForMaskedImageModeling", "swin"),
    "vit": ("ViTForMaskedImageModeling", "vit"),
}
"""Classes with tensors that the plain model does not have, such as a token for masks, and the path of the plain model."""


@pytest.mark.parametrize("model_type", HEADED)
def test_tensors_that_only_the_saved_class_has(tmp_path: Path, model_type: str) -> None:
    name, path = HEADED[model_type]
    saved(getattr(transformers, name)(small(model_type)), tmp_path)
    tower = build_tower(settings(tmp_path, model_type))
    assert tower.load_report is not None
    assert tower.load_report.skipped.keys() & {f"other parts of {name}", "head"}
    pixels = torch.randn(1, 3, *tower.shape.image_size)
    library = getattr(transformers, name).from_pretrained(tmp_path).eval()
    if name.endswith("Backbone"):
        with torch.no_grad():
            expected = library(pixels, output_hidden_states=True).hidden_states[-1]
    else:
        expected = library_states(library.get_submodule(path), pixels, tower.shape.layers)[-1]
    patches = patches_of(expected, 0)
    close(tower(pixels), patches[:, patches.shape[1] - tower(pixels).shape[1] :])


SAM = {
    "vision_config": {**MODELS["sam_vision_model"]["config"], "num_pos_feats": 8},
    "prompt_encoder_config": {"hidden_size": 16, "image_embedding_size": 8, "image_size": 64, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "iou_head_hidden_dim": 8,
    },
}


def test_the_encoder_of_a_whole_sam(tmp_path: Path) -> None:
    """It has the same path in the whole model as in the vision model, and a picture of another aspect is padded."""
    model = saved(transformers.SamModel(transformers.SamConfig(**SAM)), tmp_path)
    tower = build_tower(settings(tmp_path))
    assert "other parts of the model" in tower.load_report.skipped
    pixels = tower.image_processor.preprocess(Image.new("RGB", (90, 60), "red"), return_tensors="pt")["pixel_values"]
    own = transformers.SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )  # the library's defaults, for this size
    close(pixels, own(images=Image.new("RGB", (90, 60), "red"), return_tensors="pt")["pixel_values"])
    states = library_states(model.vision_encoder, pixels)
    close(tower(pixels), patches_of(states[-1], 0, channels_last=True))


@pytest.mark.parametrize("model_type", ["textnet", "yolos"])
def test_pictures_are_square_where_the_librarys_processor_keeps_the_aspect(tmp_path: Path, model_type: str) -> None:
    whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type, delay_load=True))
    pixels = tower.image_processor.preprocess(Image.new("RGB", (90, 60)), return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape[-2:]) == tower.shape.image_size


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_clip_and_siglip_with_a_classifier(tmp_path: Path, model_type: str) -> None:
    kind: Any = {"clip": transformers.CLIPForImageClassification, "siglip": transformers.SiglipForImageClassification}
    config = CONFIGS[model_type](vision_config=VISION, text_config=TEXT)
    model = saved(kind[model_type](config), tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    assert tower.load_report is not None
    assert len(tower.load_report.skipped["head"]) == 2
    pixels = torch.randn(1, 3, 56, 56)
    close(tower(pixels), library_states(model.vision_model, pixels)[-2][:, int(model_type == "clip") :])


def test_buffers_have_the_dtype_that_the_library_gives_them(tmp_path: Path) -> None:
    """Swin v2 runs linear layers on a table that it computes."""
    whole("swinv2", tmp_path)
    tower = build_tower(settings(tmp_path, dtype="bfloat16"))
    library = transformers.Swinv2Model.from_pretrained(tmp_path, dtype=torch.bfloat16)
    wanted = {name: buffer.dtype for name, buffer in library.named_buffers()}
    assert {name: buffer.dtype for name, buffer in tower.encoder.named_buffers()}.items() <= wanted.items()
    assert tower(torch.randn(1, 3, *tower.shape.image_size)).isfinite().all()


def test_aimv2_computes_positions_for_any_size(tmp_path: Path) -> None:
    kind = CONFIGS["aimv2_vision_model"]
    config = kind(**{**MODELS["aimv2_vision_model"]["config"], "is_native": True})
    model = saved(transformers.Aimv2VisionModel(config), tmp_path)
    side = 2 * config.image_size
    pixels = torch.randn(1, 3, side, side)
    close(build_tower(settings(tmp_path, image_size=side))(pixels), library_states(model, pixels)[-1])


def test_the_encoder_of_a_reader_of_texts(tmp_path: Path) -> None:
    """TrOCR and Donut: a whole of any encoder and any decoder."""
    encoder = transformers.ViTModel(small("vit"), add_pooling_layer=False)
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True))
    saved(transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder), tmp_path)
    pixels = torch.randn(1, 3, 56, 56)
    close(build_tower(settings(tmp_path))(pixels), library_states(encoder, pixels)[-1][:, 1:])


def test_the_backbone_of_a_model_that_has_no_other_encoder(tmp_path: Path) -> None:
    sizes = {"reassemble_hidden_size": 32, "neck_hidden_sizes": [8] * 3, "fusion_hidden_size": 8, "head_hidden_size": 4}
    backbone = CONFIGS["dinov2"](
        **MODELS["dinov2"]["config"], out_features=["stage1", "stage2", "stage3"], reshape_hidden_states=False
    )
    config = transformers.DepthAnythingConfig(backbone_config=backbone, reassemble_factors=[2, 1, 1], **sizes)
    model = saved(transformers.DepthAnythingForDepthEstimation(config), tmp_path)
    pixels = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        expected = model.backbone(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    close(build_tower(settings(tmp_path))(pixels), expected)
