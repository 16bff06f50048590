"""Checkpoints that open_clip itself writes open, and give the features of its own ``forward_intermediates``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from conftest import GOLDEN, close
from open_clip.model import resize_pos_embed
from open_clip.push_to_hf_hub import save_for_hf

from vita_core import VitaError, build_tower, make_plan
from vita_core.loading import read_tensors
from vita_core.planning.towers import resolve_tower

TEXT = {"context_length": 7, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 56, "patch_size": 14, "layers": 3, "width": 32, "head_width": 8}
DECODER = {"width": 16, "context_length": 7, "vocab_size": 10, "heads": 2, "layers": 1}


def timm(name: str, size: int, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj}


def whole(vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, **more}


MODELS: dict[str, dict[str, Any]] = {
    "ViT": whole(VIT),
    "ViT-quickgelu": whole(VIT, quick_gelu=True),
    "CLIPA": whole({**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
    "ViT-M-alt": whole({**VIT, "ls_init_value": 0.1, "qk_norm": True, "scale_fc": True, "image_size": [56, 42]}),
    "RN": whole({"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "patch_size": None}),
    "coca": whole(
        {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        custom_text=True,
        multimodal_cfg=DECODER,
    ),
    "convnext": whole(timm("test_convnext", 160, "", "linear")),
    "timm-mlp": whole(timm("test_vit2", 160, "avg", "mlp")),
    "SigLIP2": whole(timm("tiny_siglip", 64, "map", "none"), custom_text=True, init_logit_bias=-10),
    "MobileCLIP": whole(timm("tiny_fastvit", 64, "avg", None), custom_text=True),
    "EVA": whole(timm("tiny_eva", 56, "token", None), custom_text=True),
}
"""Each kind of encoder that open_clip has, as its own configs describe it, but small."""


@pytest.fixture(scope="module", autouse=True)
def small_models_of_timm() -> Iterator[None]:
    from timm.models import _registry, eva, fastvit, vision_transformer

    vit = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    small = {
        "tiny_siglip": partial(vision_transformer.vit_base_patch16_siglip_224, img_size=64, **vit),
        "tiny_fastvit": partial(fastvit.fastvit_mci0, layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128)),
        "tiny_eva": partial(eva.eva02_large_patch14_clip_224, img_size=56, **vit),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in small.items():
            patch.setitem(_registry._model_entrypoints, name, entry)
        yield


class NoTokenizer:
    def save_pretrained(self, folder: Path) -> None:
        """`save_for_hf` wants one; the tokenizers of open_clip's models come from a hub."""


def saved(folder: Path, config: dict[str, Any], **preprocess: Any) -> Any:
    """Write a model with random values as open_clip writes it, both as safetensors and as a pickle, and return it."""
    name = f"test-{folder.name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    model = open_clip.create_model(name, force_preprocess_cfg=preprocess).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.normal_(0.05, 0.15)
    save_for_hf(model, NoTokenizer(), config, folder)
    (folder / f"{name}.json").unlink()
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """The directory and the model of each of MODELS."""
    folder = tmp_path_factory.mktemp("open-clip")
    return {name: (folder / name, saved(folder / name, config)) for name, config in MODELS.items()}


Checkpoints = dict[str, tuple[Path, Any]]


def pixels_for(model: Any) -> torch.Tensor:
    torch.manual_seed(1)
    size = model.visual.image_size
    return torch.rand(2, 3, *((size, size) if isinstance(size, int) else size))


def features(model: Any, pixels: torch.Tensor, **more: Any) -> list[torch.Tensor]:
    """Every feature that open_clip gives, as tokens (B, N, C)."""
    with torch.no_grad():
        output = model.visual.forward_intermediates(pixels, intermediates_only=True, **more)
    return [state.flatten(2).transpose(1, 2) for state in output["image_intermediates"]]


@pytest.mark.parametrize("name", MODELS)
def test_the_features_are_open_clips(checkpoints: Checkpoints, name: str) -> None:
    folder, model = checkpoints[name]
    config, pixels = {"type": "open_clip", "weights": str(folder)}, pixels_for(model)
    expected = features(model, pixels)
    stem = name == "RN"  # open_clip's first feature of a ResNet, and layer 0 here
    for number, wanted in enumerate(expected):
        layer = number + 1 - stem
        tower = build_tower({**config, "select_layer": layer})
        close(tower(pixels), wanted)
        assert (tower.grid[0] * tower.grid[1], tower.hidden_size) == tuple(wanted.shape[1:])
        assert sum(parameter.numel() for parameter in tower.parameters()) == tower.resolved.parameters
    assert tower.resolved.shape.layers == len(expected) - stem
    close(build_tower(config)(pixels), expected[-1])  # the default is the last layer, without its norm


@pytest.mark.parametrize("name", ["ViT", "CLIPA", "SigLIP2", "EVA"])
def test_the_norm_and_the_cls_token_are_open_clips(checkpoints: Checkpoints, name: str) -> None:
    folder, model = checkpoints[name]
    config, pixels = {"type": "open_clip", "weights": str(folder)}, pixels_for(model)
    close(build_tower({**config, "norm": True})(pixels), features(model, pixels, normalize_intermediates=True)[-1])
    if name != "SigLIP2":
        with torch.no_grad():
            prefix = model.visual.forward_intermediates(pixels, output_extra_tokens=True)["image_intermediates_prefix"]
        close(build_tower({**config, "select_feature": "cls"})(pixels), prefix[-1])


def test_the_embeddings_are_the_input_of_the_first_block(checkpoints: Checkpoints) -> None:
    folder, model = checkpoints["ViT"]
    pixels, states = pixels_for(model), []
    with torch.no_grad():
        model.visual.transformer.resblocks[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))
        model.visual(pixels)
    tower = build_tower({"type": "open_clip", "weights": str(folder), "select_layer": 0, "select_feature": "cls_patch"})
    close(tower(pixels), states[0])


def test_a_head_that_norms_pooled_tokens_is_no_norm_of_the_encoder(checkpoints: Checkpoints) -> None:
    with pytest.raises(VitaError, match=r"tower\.norm: this encoder has no final norm"):
        build_tower({"type": "open_clip", "weights": str(checkpoints["coca"][0]), "norm": True})


@pytest.mark.parametrize("select", [1, -1])
@pytest.mark.parametrize("name", ["ViT", "RN", "convnext", "EVA"])
def test_a_training_checkpoint_opens_by_the_name_of_its_model(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, select: int
) -> None:
    """As ``open_clip_train`` writes them from several processes: text tensors and the optimizer's state are in the file."""
    model = deepcopy(checkpoints[name][1])
    optimizer = torch.optim.AdamW(model.parameters())
    model.encode_image(pixels_for(model)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    saved = {"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer.state_dict()}
    torch.save(saved, tmp_path / "epoch_latest.pt")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "test-model", MODELS[name])
    options = {"model": "test-model"}
    tower = build_tower(
        {"type": "open_clip", "weights": str(tmp_path / "epoch_latest.pt"), "options": options, "select_layer": select}
    )
    close(tower(pixels_for(model)), features(model, pixels_for(model))[0 if select == 1 and name != "RN" else select])
    assert tower.load_report is not None
    assert "other parts of the model" in tower.load_report.skipped
    counted = tower.load_report.loaded + sum(len(keys) for keys in tower.load_report.skipped.values())
    assert counted == len(state)


def test_only_the_needed_tensors_of_the_encoder_are_read(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(files: Any) -> Any:
        for key, tensor in read_tensors(files):
            yield key, lambda tensor=tensor: (sizes.append((found := tensor()).nbytes), found)[1]

    monkeypatch.setattr("vita_core.towers.tower.read_tensors", counted)
    for name, layer in (("ViT", 1), ("RN", 2), ("EVA", 1)):
        sizes.clear()
        tower = build_tower({"type": "open_clip", "weights": str(checkpoints[name][0]), "select_layer": layer})
        assert sum(sizes) == sum(tensor.nbytes for tensor in tower.encoder.state_dict().values())
        assert not any("text" in key or "resblocks.1." in key for key, _ in tower.encoder.named_parameters())


@pytest.mark.parametrize("name", ["ViT", "RN", "SigLIP2"])
def test_the_encoder_alone_opens(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """In half precision, with the keys that open_clip's argument ``pretrained_image_path`` takes."""
    model = checkpoints[name][1]
    torch.save({key: value.half() for key, value in model.visual.state_dict().items()}, tmp_path / "visual.pt")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "test-model", MODELS[name])
    config = {"type": "open_clip", "weights": str(tmp_path / "visual.pt"), "options": {"model": "test-model"}}
    halved = deepcopy(model)
    halved.visual.load_state_dict({key: value.half().float() for key, value in model.visual.state_dict().items()})
    close(build_tower(config)(pixels_for(model)), features(halved, pixels_for(model))[-1])


def test_stages_and_blocks_can_be_trained_from_one_on(checkpoints: Checkpoints) -> None:
    for name, trained in (("RN", "layer4."), ("SigLIP2", "blocks.2."), ("convnext", "stages.3.")):
        config = {"type": "open_clip", "weights": str(checkpoints[name][0])}
        layers = resolve_tower(config).shape.layers
        tower = build_tower({**config, "freeze": {"from_layer": layers}})
        free = [key for key, parameter in tower.encoder.named_parameters() if parameter.requires_grad]
        assert free
        assert all(key.startswith((trained, "norm.")) for key in free)


NAMES = [
    "ViT-B-32", "ViT-H-14-quickgelu", "ViT-bigG-14-CLIPA-336", "RN50x4", "coca_ViT-L-14", "convnext_base_w",
    "ViT-B-16-SigLIP2-512", "ViT-SO400M-14-SigLIP-384", "MobileCLIP2-S0", "MobileCLIP-B", "EVA02-B-16", "PE-Core-T-16-384",
    "ViTamin-S", "nllb-clip-base", "swin_base_patch4_window7_224", "vit_relpos_medium_patch16_cls_224",
]  # fmt: skip
"""Names of each kind in ``open_clip.list_models()``. docs/encoders.py plans all of them."""


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_planned_without_weights(tmp_path: Path, name: str) -> None:
    vision = open_clip.get_model_config(name)["vision_cfg"]
    plan = make_plan({"tower": {"type": "open_clip", "weights": str(tmp_path), "options": {"model": name}}})
    picture, tower = plan.stages
    assert picture.shape[2:] == (vision["image_size"],) * 2
    assert plan.rule == "explicit `type: open_clip`"
    assert tower.parameters > 10**6
    if vision.get("patch_size"):
        side = vision["image_size"] // vision["patch_size"]
        assert (plan.grid, plan.layers, tower.shape[2]) == ((side, side), (vision["layers"],), vision["width"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-H14"}, r"open_clip \S+ has no model 'ViT-H14'. Nearest are ViT-H-14, .*Try: one of `open_clip"),
        ({"model": "hf-hub:owner/name"}, r"has no model 'hf-hub:owner/name'"),
        ({}, r"tower\.options\.model: missing, and the checkpoint has no open_clip_config.json. Try: open_clip's name"),
        ({"modle": "ViT-B-32"}, r"Did you mean 'model'\?"),
    ],
)
def test_a_model_that_cannot_be_found(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        make_plan({"tower": {"type": "open_clip", "weights": str(tmp_path), "options": options}})


def test_the_name_of_another_model_does_not_fit(checkpoints: Checkpoints) -> None:
    config = {"type": "open_clip", "weights": str(checkpoints["ViT"][0]), "options": {"model": "ViT-S-32"}}
    with pytest.raises(VitaError) as caught:
        build_tower(config)
    assert "with options {'model': 'ViT-S-32'} does not fit: " in str(caught.value)
    assert str(caught.value).count("Try: ") == 1


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-plus"])
def test_the_name_of_a_model_is_not_weights(name: str) -> None:
    with pytest.raises(VitaError) as caught:
        make_plan({"tower": {"type": "open_clip", "weights": name}})
    message = str(caught.value)
    assert message.startswith(f"weights: the name of a model, not its weights: {name!r}. Try: ")
    assert f"`tower.options: {{model: {name}}}`" in message
    assert ("from the hub" in message) == (name == "ViT-B-32")


def beside(folder: Path, source: Path, *names: str, **config: Any) -> dict[str, Any]:
    """Make a directory of the files `names`, with a config.json of transformers beside open_clip's."""
    for name in ("open_clip_config.json", *names):
        shutil.copy(source / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text((GOLDEN / "clip" / "preprocessor_config.json").read_text())
    return {"weights": str(folder)}


def test_a_config_of_transformers_beside_open_clips(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """The config.json counts if a tower opens it and finds its weights; `plan` says which rule chose."""
    source, model = checkpoints["ViT"]
    clip = json.loads((GOLDEN / "clip" / "config.json").read_text())
    config = beside(tmp_path, source, "open_clip_model.safetensors", **clip)
    found = resolve_tower(config)
    assert (found.spec.name, found.rule) == (
        "open_clip", "its open_clip_config.json, because it has no weights for tower 'clip'"
    )  # fmt: skip
    shutil.copy(GOLDEN / "clip" / "model.safetensors", tmp_path / "model.safetensors")
    found = resolve_tower(config)
    assert (found.spec.name, found.rule) == ("clip", "model_type 'clip_vision_model' in its config.json")
    named = build_tower({**config, "type": "open_clip"})
    assert named.resolved.rule == "explicit `type: open_clip`"
    assert named.image_processor.crop_offset == "round"  # of open_clip's preprocess_cfg
    close(named(pixels_for(model)), features(model, pixels_for(model))[-1])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobodys"}))
    found = resolve_tower(config)
    assert (found.spec.name, found.rule) == (
        "open_clip", "its open_clip_config.json, because no tower opens its config.json"
    )  # fmt: skip


def test_a_tower_for_one_family_is_chosen_before_open_clip(tmp_path: Path) -> None:
    for name, owner in (("EVA02-L-14-336", "eva_clip"), ("EVA02-E-14", "open_clip")):
        saved = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(saved))
        assert resolve_tower({"weights": str(tmp_path)}).spec.name == owner


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({**VIT, "newer": 1}, r"open_clip \S+ does not know these keys of vision_cfg: 'newer'. Try: correct them"),
        (timm("vit_newer", 32, "", None), r"timm \S+ has no model 'vit_newer'. Try: correct the name"),
        ("ViT", r"open_clip_config.json: model_cfg.vision_cfg: 'ViT' is not an object. Try: "),
    ],
)
def test_a_config_that_open_clip_cannot_read(tmp_path: Path, vision: Any, message: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": whole(vision)}))
    with pytest.raises(VitaError, match=message):
        resolve_tower({"weights": str(tmp_path)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_archive_of_torchscript_is_not_run(tmp_path: Path) -> None:
    """OpenAI published CLIP in such files."""
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "ViT-B-32.pt")
    config = {"type": "open_clip", "weights": str(tmp_path / "ViT-B-32.pt"), "options": {"model": "ViT-B-32-quickgelu"}}
    with pytest.raises(VitaError, match=r"is a TorchScript archive: .* Try: save its tensors once, if you trust it: "):
        build_tower(config)


def test_another_size_is_open_clips_force_image_size(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder, model = checkpoints["ViT"]
    (tmp_path / "forced.json").write_text(json.dumps(MODELS["ViT"]))
    open_clip.add_model_config(tmp_path / "forced.json")
    forced = open_clip.create_model("forced", force_image_size=(84, 70)).eval()
    state = model.state_dict()
    resize_pos_embed(state, forced)
    forced.load_state_dict(state)
    tower = build_tower({"weights": str(folder), "image_size": [84, 70], "select_layer": 2})
    close(tower(pixels_for(forced)), features(forced, pixels_for(forced))[1])
    assert tower.grid == (6, 5)
    assert tower.encoder.positional_embedding.shape == model.visual.positional_embedding.shape
    assert tower.resolved.parameters == sum(parameter.numel() for parameter in tower.parameters())
