"""``model.save``: a directory that gives the same logits, says where it comes from, and spoils nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import vita
from safetensors.torch import save_file

from vita_core import build_model, load_config
from vita_core.errors import CheckpointError, PluginError, VitaError
from vita_core.language.merging import merge
from vita_core.models.model import VisionLanguageModel

TOWERS = {
    "clip": "clip",
    "siglip": "siglip",
    "siglip_s2": "siglip_s2",
    "internvit": "internvit",
    "internvit_6b": "internvit_6b",
    "eva_clip": "eva_clip/EVA02_CLIP_tiny_psz14.pt",
}
THIRD_PARTY = """
from vita_core import TowerSpec, hookimpl
from vita_plugins.clip import processor, shape
vita_api = 1

@hookimpl
def vita_towers():
    return [TowerSpec("owl", "CLIP by another name", "vita_plugins.clip.tower:ClipTower", shape, processor, ("owl",))]
"""


def opened(tiny_config: Path, golden: Path, tower: str, *overrides: str) -> VisionLanguageModel:
    scales = ["tower.s2={scales: [56, 112, 168]}"] if tower.endswith("s2") else []
    torch.manual_seed(1)
    return build_model(load_config(tiny_config, [f"tower.weights={golden / TOWERS[tower]}", *scales, *overrides]))


def logits(model: VisionLanguageModel, golden: Path) -> torch.Tensor:
    ids = model.llm.prompt(model.settings.prompt, "what is this ?", 1)
    with torch.inference_mode():
        visual = model.encode_images(model.prepare(golden / "pictures" / "wide.png").pixels).flatten(0, 1)
        embeds, mask = merge([ids], [[visual]], model.llm.embed)
        output: torch.Tensor = model.llm.model(inputs_embeds=embeds, attention_mask=mask).logits
    return output


@pytest.mark.parametrize("tower", TOWERS)
def test_reopened_logits_are_bit_equal(tiny_config: Path, golden: Path, tmp_path: Path, tower: str) -> None:
    model = opened(tiny_config, golden, tower)
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert torch.equal(logits(again, golden), logits(model, golden))
    assert again.tower.resolved.geometry == model.tower.resolved.geometry
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.yaml", "provenance.json", "tower", "projector.safetensors", "llm"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_dtypes_tiles_and_all_layers_come_back(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    changes = [
        "tower.dtype=bfloat16",
        "llm.dtype=float16",
        "tower.layers=all",
        "images.tiles={max: 2}",
        "tower.norm=true",
    ]
    model = opened(tiny_config, golden, "clip", *changes)
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved")
    assert (again.tower.dtype, again.llm.dtype) == (torch.bfloat16, torch.float16)
    assert again.settings.images == model.settings.images
    assert len(again.tower.vision_tower.encoder.layers) == 4
    assert torch.equal(logits(again, golden), logits(model, golden))


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
def test_towers_without_a_golden_file(tiny_config: Path, golden: Path, tmp_path: Path, kind: str) -> None:
    """Encoders with random weights, cut behind the selected layer by their own library's rules."""
    folder = tmp_path / "weights"
    folder.mkdir()
    if kind == "timm":
        import timm

        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "model.safetensors")
        config = {"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 160, 160]}, "num_classes": 0}
    else:
        import torchvision

        save_file(torchvision.models.get_model("mobilenet_v2").state_dict(), folder / "model.safetensors")
        config = {"model_type": "torchvision", "architecture": "mobilenet_v2"}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    small = [f"tower.weights={folder}", "tower.select_layer=-2", "tower.pool=2"]
    model = build_model(load_config(tiny_config, small))
    model.save(tmp_path / "saved")
    assert torch.equal(logits(build_model(tmp_path / "saved"), golden), logits(model, golden))


def test_an_opened_checkpoint(vita15: Path, golden: Path, tmp_path: Path) -> None:
    """Its tower, tiles and prompt format come back, without the checkpoint or its base tower."""
    model = build_model(checkpoint=vita15, overrides=["device=cpu"])
    model.save(tmp_path / "saved")
    expected, answer = logits(model, golden), model.ask(golden / "pictures" / "tall.png", "what?", max_new_tokens=5)
    shutil.rmtree(vita15)
    shutil.rmtree(tmp_path / "internvit")
    again = build_model(tmp_path / "saved")
    assert torch.equal(logits(again, golden), expected)
    assert again.ask(golden / "pictures" / "tall.png", "what?", max_new_tokens=5).token_ids == answer.token_ids


def test_what_was_changed_in_memory_is_what_is_saved(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    model = opened(tiny_config, golden, "internvit")
    with torch.no_grad():
        next(model.tower.parameters()).add_(1)
    model.save(tmp_path / "saved")
    assert torch.equal(logits(build_model(tmp_path / "saved"), golden), logits(model, golden))
    assert not torch.equal(logits(opened(tiny_config, golden, "internvit"), golden), logits(model, golden))


def test_provenance(tiny_config: Path, tiny_llm: Path, golden: Path, tmp_path: Path) -> None:
    from importlib.metadata import version

    opened(tiny_config, golden, "clip").save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text())
    built_in = {"distribution": "vita-core", "version": version("vita-core")}
    assert record["made_by"] == {
        "vita-core": version("vita-core"),
        **dict.fromkeys(("tower", "projector", "llm"), built_in),
    }
    source = (golden / "clip" / "model.safetensors").read_bytes()
    assert record["sources"]["tower"]["files"] == {"model.safetensors": hashlib.sha256(source).hexdigest()}
    assert record["sources"]["llm"]["weights"] == str(tiny_llm)
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file() and path.name != "provenance.json"]
    assert set(record["files"]) == {path.relative_to(tmp_path / "saved").as_posix() for path in files}
    for name, digest in record["files"].items():
        assert hashlib.sha256((tmp_path / "saved" / name).read_bytes()).hexdigest() == digest
    config = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())
    assert config["tower"]["weights"] == "./tower/model.safetensors"
    assert config["tower"]["select_layer"] == -2  # the family's default, written out
    assert str(tmp_path) not in (tmp_path / "saved" / "config.yaml").read_text()


def test_only_a_saved_model_is_replaced(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    model = opened(tiny_config, golden, "clip")
    empty, other, saved = tmp_path / "empty", tmp_path / "other", tmp_path / "saved"
    empty.mkdir()
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    model.save(empty)
    model.save(saved)
    with pytest.raises(VitaError, match=r"not a saved model that could be replaced: it contains thesis\.txt"):
        model.save(other)
    assert (other / "thesis.txt").read_text() == "years of work"
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(VitaError, match=r"notes\.txt"):
        model.save(saved)
    (saved / "notes.txt").unlink()
    reopened = build_model(saved)  # its weights are mapped from the files that are replaced now
    expected = logits(reopened, golden)
    reopened.save(saved)
    assert torch.equal(logits(build_model(saved), golden), expected)
    assert torch.equal(logits(reopened, golden), expected)


def test_nothing_is_left_of_a_save_that_fails(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    model = opened(tiny_config, golden, "clip")
    model.tower.renames = ((r"^encoder\.", "backbone."),)
    with pytest.raises(CheckpointError, match=r"change \d+ of its own keys"):
        model.save(tmp_path / "saved")
    unloaded = opened(tiny_config, golden, "clip", "tower.delay_load=true")
    with pytest.raises(VitaError, match=r"model\.tower\.load_model\(\)"):
        unloaded.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir() if "saved" in path.name] == []


@pytest.mark.slow
def test_run_opens_it(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    model = opened(tiny_config, golden, "clip")
    model.save(tmp_path / "saved")
    picture = golden / "pictures" / "wide.png"
    done = vita("run", tmp_path / "saved", "--image", picture, "--question", "what is this ?", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == model.ask(picture, "what is this ?").token_ids


@pytest.mark.slow
def test_without_its_plugin_it_says_what_to_install(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    """A tower of another distribution is named with it, so that a process without the plugin knows what is missing."""
    (tmp_path / "owl_tower.py").write_text(THIRD_PARTY)
    folder = shutil.copytree(golden / "clip", tmp_path / "owl")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("clip_vision_model", "owl"))
    save = (
        "import sys\nfrom vita_core import build_model, load_config\n"
        "build_model(load_config(sys.argv[1], ['tower.weights=' + sys.argv[3]])).save(sys.argv[2])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "VITA_PLUGINS": "owl_tower"}
    subprocess.run([sys.executable, "-c", save, tiny_config, tmp_path / "saved", folder], check=True, env=environment)
    with pytest.raises(PluginError, match=r"owl_tower is not installed\. Try: `pip install owl_tower`"):
        build_model(tmp_path / "saved")
    told = vita("plan", tmp_path / "saved", PYTHONPATH=str(tmp_path), VITA_PLUGINS="owl_tower")
    assert told.returncode == 0, told.stderr
