"""Checkpoint layouts people have, each against the library that wrote it; and what loading reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, close
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor

from vita_core import build_tower
from vita_core.errors import CheckpointError

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 10,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def pictures() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 56, 56)


def write(state: Mapping[str, Tensor], folder: Path, layout: str) -> None:
    """Weights as transformers writes them: one file or shards with an index, safetensors or pickles."""
    state = {key: tensor.contiguous().clone() for key, tensor in state.items()}
    safe = layout.startswith("safetensors")
    save = save_file if safe else torch.save
    name = "model.safetensors" if safe else "pytorch_model.bin"
    if not layout.endswith("sharded"):
        save(state, folder / name)
        return
    pattern = name.replace(".", "{suffix}.")
    split = split_torch_state_dict_into_shards(state, filename_pattern=pattern, max_shard_size="20KB")
    for file, keys in split.filename_to_tensors.items():
        save({key: state[key] for key in keys}, folder / file)
    assert len(split.filename_to_tensors) > 2
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / f"{name}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("layout", ["safetensors", "safetensors sharded", "bin", "bin sharded"])
@pytest.mark.parametrize("prefix", ["", "vision_model."], ids=["new keys", "old keys"])
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_vision_models_of_transformers(tmp_path: Path, family: str, prefix: str, layout: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}VisionConfig")(**TINY)
    model = getattr(transformers, f"{family}VisionModel")(config).eval()
    config.save_pretrained(tmp_path)
    plain = {key.removeprefix("vision_model."): tensor for key, tensor in model.state_dict().items()}
    if prefix:  # old checkpoints hold this table too
        plain["embeddings.position_ids"] = torch.arange(17)
    write({prefix + key: tensor for key, tensor in plain.items()}, tmp_path, layout)
    tower = build_tower({"weights": str(tmp_path)})
    with torch.no_grad():
        states = model(pictures(), output_hidden_states=True).hidden_states
    close(tower(pictures()), states[-2][:, tower.shape.prefix_tokens :])


@pytest.mark.parametrize(("family", "type_name"), [("CLIP", "clip"), ("Siglip", "siglip")])
def test_a_full_model_directory(tmp_path: Path, family: str, type_name: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(text_config=TEXT, vision_config=TINY)
    model = getattr(transformers, f"{family}Model")(config).eval()
    model.save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    assert tower.resolved.spec.name == type_name
    with torch.no_grad():
        states = model.vision_model(pictures(), output_hidden_states=True).hidden_states
    close(tower(pictures()), states[-2][:, tower.shape.prefix_tokens :])
    saved = load_file(tmp_path / "model.safetensors")
    text = next(keys for reason, keys in tower.load_report.skipped.items() if reason.startswith("text tower"))
    assert set(text) >= {key for key in saved if key.startswith("text_model.")} != set()
    assert f"{len(text)} skipped (text tower" in str(tower.load_report)
    assert tower.load_report.loaded + sum(map(len, tower.load_report.skipped.values())) == len(saved)


@pytest.mark.parametrize("layout", ["safetensors", "safetensors sharded", "bin sharded"])
@pytest.mark.parametrize("style", ["internvit", "internvit_6b"])
def test_an_internvl_chat_checkpoint(tmp_path: Path, style: str, layout: str) -> None:
    vision = load_file(GOLDEN / style / "model.safetensors")
    state = {f"vision_model.{key.removeprefix('vision_model.')}": tensor for key, tensor in vision.items()}
    others = {"language_model.model.embed_tokens.weight": torch.zeros(9, 4), "mlp1.1.weight": torch.zeros(4, 4)}
    write(state | others, tmp_path, layout)
    config = {
        "model_type": "internvl_chat",
        "vision_config": json.loads((GOLDEN / style / "config.json").read_text()),
        "llm_config": {"hidden_size": 4},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = build_tower({"weights": str(tmp_path)})
    expected = load_file(GOLDEN / style / "expected.safetensors")
    close(tower(expected["pixel_values"]), expected["features"])
    assert sorted(tower.load_report.skipped["language model and projector"]) == sorted(others)


def eva02_tiny_patch14_clip_56(pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
    """An entry for timm's registry: its EVA02 CLIP models, but 3 blocks of width 32."""
    from timm.models.eva import Eva

    return Eva(
        img_size=56,
        patch_size=14,
        embed_dim=32,
        depth=3,
        num_heads=4,
        mlp_ratio=2.6667,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        num_classes=arguments.get("num_classes", 0),
        global_pool=arguments.get("global_pool", "token"),
    )


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_an_open_clip_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    import open_clip
    from timm.models import _registry

    from vita_plugins.eva_clip import ORIGINAL_L_336, TIMM_NAMES

    name = eva02_tiny_patch14_clip_56.__name__
    monkeypatch.setitem(_registry._model_entrypoints, name, eva02_tiny_patch14_clip_56)
    tiny = {**ORIGINAL_L_336, "image_size": 56, "layers": 3, "width": 32, "head_width": 8}
    monkeypatch.setitem(TIMM_NAMES, name, tiny)
    vision = {"image_size": 56, "timm_model_name": name, "timm_model_pretrained": False}
    vision |= {"timm_pool": "token", "timm_proj": None}
    text = {"context_length": 7, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    written = open_clip.CustomTextCLIP(**model_cfg)
    config = {"model_cfg": {**model_cfg, "custom_text": True}, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (save_file if weights.endswith("safetensors") else torch.save)(written.state_dict(), tmp_path / weights)
    opened = open_clip.create_model(f"local-dir:{tmp_path}").eval()  # open_clip's own way to open such a directory
    with torch.no_grad():
        layers = opened.visual.trunk.forward_intermediates(pictures(), intermediates_only=True, output_fmt="NLC")
    for layer in (-1, -2):
        tower = build_tower({"weights": str(tmp_path), "select_layer": layer})
        assert tower.resolved.rule == "its layout"
        close(tower(pictures()), layers[layer])


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "module"])
def test_the_original_eva_checkpoint(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    state = torch.load(GOLDEN / "eva_clip" / "EVA02_CLIP_tiny_psz14.pt", weights_only=True)
    state = {f"{prefix}{key}": value for key, value in state.items()}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "EVA02_CLIP_tiny.pt")
    (tmp_path / "config.json").write_text((GOLDEN / "eva_clip" / "config.json").read_text())
    tower = build_tower({"weights": str(tmp_path)})
    expected = load_file(GOLDEN / "eva_clip" / "expected.safetensors")
    close(tower(expected["pixel_values"]), expected["features"])
    assert len(tower.load_report.skipped["text tower"]) == sum("text." in key or "logit" in key for key in state)


def copied(tmp_path: Path, **changes: Tensor | None) -> Path:
    """The golden CLIP directory with some tensors put in place or (None) left out."""
    state = load_file(GOLDEN / "clip" / "model.safetensors") | changes
    save_file({key: value for key, value in state.items() if value is not None}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((GOLDEN / "clip" / "config.json").read_text())
    return tmp_path


def test_loading_counts_what_is_wrong_and_gives_examples(tmp_path: Path) -> None:
    fc = "vision_model.encoder.layers.{}.mlp.fc1.{}"
    lost = {fc.format(block, kind): None for block in (0, 1) for kind in ("weight", "bias")}
    strays = {f"stray{number}": torch.zeros(1) for number in range(5)}
    bent = {"vision_model.post_layernorm.weight": torch.zeros(7)}
    with pytest.raises(CheckpointError) as error:
        build_tower({"weights": str(copied(tmp_path, **lost, **strays, **bent))})
    for part in (
        r"4 missing (encoder.layers.0.mlp.fc1.weight, encoder.layers.0.mlp.fc1.bias, encoder.layers.1.mlp.fc1.weight, ...)",
        r"5 unexpected (stray0, stray1, stray2, ...)",
        r"1 of another shape (vision_model.post_layernorm.weight (7,) for (32,))",
    ):
        assert part in str(error.value)


def test_two_tensors_for_one_place_are_not_chosen_between(tmp_path: Path) -> None:
    twice = {"post_layernorm.weight": torch.zeros(32)}  # the golden directory has it with the old prefix
    with pytest.raises(CheckpointError, match=r"1 unexpected \((vision_model\.)?post_layernorm.weight\)"):
        build_tower({"weights": str(copied(tmp_path, **twice))})


def test_a_report_names_what_was_skipped_and_why() -> None:
    tower = build_tower({"weights": str(GOLDEN / "clip")})
    report = tower.load_report
    saved = load_file(GOLDEN / "clip" / "model.safetensors")
    behind = report.skipped["blocks after the last selected layer"]
    assert behind == [key for key in saved if ".layers.3." in key]
    assert report.loaded == len(saved) - sum(map(len, report.skipped.values()))
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    whole = build_tower({"weights": str(GOLDEN / "clip"), "layers": "all"})
    assert "blocks after the last selected layer" not in whole.load_report.skipped


def test_a_tower_that_did_not_load_can_be_loaded_again(tmp_path: Path) -> None:
    tower = build_tower({"weights": str(copied(tmp_path, stray=torch.zeros(1))), "delay_load": True})
    with pytest.raises(CheckpointError, match="1 unexpected"):
        tower.load_model()
    assert not tower.is_loaded
    copied(tmp_path)
    tower.load_model()
    assert tower.is_loaded


def test_a_lost_shard_and_an_empty_index_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((GOLDEN / "clip" / "config.json").read_text())
    write(load_file(GOLDEN / "clip" / "model.safetensors"), tmp_path, "safetensors sharded")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"shards are missing: {lost.name}"):
        build_tower({"weights": str(tmp_path)})
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lists no shards"):
        build_tower({"weights": str(tmp_path)})


def test_several_checkpoints_in_one_directory_are_listed_not_joined(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((GOLDEN / "eva_clip" / "config.json").read_text())
    for name in ("EVA_a.pt", "EVA_b.pt"):
        (tmp_path / name).write_bytes((GOLDEN / "eva_clip" / "EVA02_CLIP_tiny_psz14.pt").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"holds 2 weight files: EVA_a.pt, EVA_b.pt\. Try: .*`weights: ./EVA_a.pt`"
    ):
        build_tower({"weights": str(tmp_path)})
    build_tower({"weights": str(tmp_path / "EVA_b.pt")})


def test_a_checkpoint_without_its_config_is_told(tmp_path: Path) -> None:
    (tmp_path / "EVA.pt").write_bytes((GOLDEN / "eva_clip" / "EVA02_CLIP_tiny_psz14.pt").read_bytes())
    with pytest.raises(
        CheckpointError,
        match=r"tower 'eva_clip' needs 'width' in the checkpoint's config.json, but it is empty or does not exist",
    ):
        build_tower({"type": "eva_clip", "weights": str(tmp_path / "EVA.pt")})


def test_integers_in_place_of_weights(tmp_path: Path) -> None:
    integers = {"vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(64, 32, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"fc1.weight holds integers \(int8\), as in quantised weights"):
        build_tower({"weights": str(copied(tmp_path, **integers))})
