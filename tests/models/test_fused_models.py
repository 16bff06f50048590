"""A whole model with several encoders: questions, encoding, training, saving, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import vita
from natives import SIZES, picture, saved_timm
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from vita_core import VitaError, build_model, build_tower, list_towers, load_config, register
from vita_core.errors import CheckpointError
from vita_core.models.building import build
from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import encoded, prepare
from vita_core.pixels.fused import FusedPixels
from vita_core.pixels.prefetching import prefetched
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import resolve_tower
from vita_core.towers.devices import copied
from vita_core.towers.fused import FusedTower
from vita_core.towers.reducing import save_reduction
from vita_core.towers.tower import build_resolved
from vita_core.training.train import train
from vita_plugins.clip.tower import ClipTower

Examples = dict[str, dict[str, Any]]
REST = "generation: {max_new_tokens: 5}\ndevice: cpu\n"


def write(folder: Path, llm: Path, *parts: dict[str, Any], images: str = "{}", **whole: Any) -> Path:
    file = folder / "fused.yaml"
    tower = yaml.safe_dump({"tower": {"towers": [*parts], **whole}})
    file.write_text(f"{tower}llm: {{weights: {llm}}}\nimages: {images}\n{REST}")
    return file


@pytest.fixture
def config(tmp_path: Path, tiny_llm: Path, tower_examples: Examples) -> Path:
    """A SigLIP, a CNN of another size, and a pooled DINOv2."""
    names = ("siglip", "torchvision", "transformers")
    siglip, cnn, dino = (tower_examples[name] for name in names)
    return write(tmp_path, tiny_llm, siglip, cnn, dino | {"reduce": {"type": "pool", "window": 2}})


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("naflex")
    saved_timm(folder)
    return {"weights": str(folder)}


def test_it_answers(config: Path, golden: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config)
    paths = [golden / "pictures" / name for name in ("wide.png", "tall.png")]
    alone = [model.ask(path, "what is this ?") for path in paths]
    assert [answer.visual_tokens for answer in alone] == [16, 16]
    assert alone[0].tower == "fused"
    assert [answer.token_ids for answer in model.ask_each(paths, "what is this ?")] == [a.token_ids for a in alone]
    both = model.ask(paths, "what is this ?")
    assert both.visual_tokens == 32


@torch.no_grad()
def test_each_part_gets_the_pixels_that_it_gets_alone(
    tower_examples: Examples, tmp_path: Path, tiny_llm: Path, golden: Path
) -> None:
    """The border of a padded picture has the mean colour of each part's own processor; tiles have the first part's size."""
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    wide = golden / "pictures" / "wide.png"
    for images in ("{aspect: pad}", "{tiles: {max: 6}}", "{anyres: {grids: [[1, 2], [2, 1]]}}", "{}"):
        resolved = load_config(write(tmp_path, tiny_llm, clip, siglip, images=images))
        tower = build_tower(resolved.tower)
        prepared = prepare(tower, resolved.images, wide)
        assert isinstance(prepared.pixels, FusedPixels)
        for part, one in zip(prepared.pixels.parts, (clip, siglip), strict=True):
            alone = prepare(build_tower(one), resolved.images, wide)
            assert torch.equal(torch.as_tensor(part), alone.pixels)  # type: ignore[arg-type]  # Pixels may be a list, here it is a tensor
            assert alone.size == prepared.size


def test_pixels_are_read_ahead_copied_and_batched(tower_examples: Examples, golden: Path, tmp_path: Path) -> None:
    tower = build_tower({"towers": [tower_examples["clip"], tower_examples["siglip"]]})
    images = load_config(write(tmp_path, tmp_path, tower_examples["clip"], tower_examples["siglip"])).images
    paths = [golden / "pictures" / name for name in ("wide.png", "tall.png", "square.png")]

    def read(path: Path) -> Any:
        return prepare(tower, images, path).copied(tower.device).pixels

    with prefetched(paths, read, batch=2) as batches, torch.no_grad():
        found = [tokens for batch in batches for tokens in encoded(tower, batch)]
        expected = [tower(prepare(tower, images, path).pixels) for path in paths]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert copied(prepare(tower, images, paths[0]).pixels, torch.device("cpu")).device.type == "cpu"


@torch.no_grad()
def test_native_resolution_first_and_second(naflex: dict[str, Any], tower_examples: Examples) -> None:
    """Each picture's own grid counts; where the native part is second, it is resized to the first one's."""
    clip, pictures = tower_examples["clip"], [picture(*size) for size in SIZES]
    native, fixed = build_tower(naflex), build_tower(clip)
    first, second = build_tower({"towers": [naflex, clip]}), build_tower({"towers": [clip, naflex]})
    joined = build_tower({"towers": [naflex, clip], "combine": "sequence"})
    shuffled = build_tower({"towers": [naflex, clip], "pixel_shuffle": 0.5})
    pixels = first.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]
    assert isinstance(pixels.parts[0], list)
    swapped = second.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]
    found, one_grid, tokens = first(pixels), second(swapped), joined(pixels)
    assert isinstance(found, list)
    assert one_grid.shape == (4, 16, 64)
    whole = shuffled(shuffled.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"])
    grids = set()
    for place, one in enumerate(pixels):
        own, other = native(one.parts[0][None]), fixed(one.parts[1][None])
        rows, cols = native.resolved.grid_of(*one.parts[0].shape[-2:])
        grids.add((rows, cols))
        maps = other.unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(maps, (rows, cols), mode="bilinear").flatten(2).transpose(1, 2)
        wanted = resized if (rows, cols) != (4, 4) else other
        torch.testing.assert_close(found[place], torch.cat([own, wanted], dim=-1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens[place], torch.cat([own, other], dim=1), atol=1e-5, rtol=1e-5)
        assert first.resolved.grid_of(*one.parts[0].shape[-2:]) == (rows, cols)
        maps = own.unflatten(1, (rows, cols)).permute(0, 3, 1, 2)
        small = torch.nn.functional.interpolate(maps, (4, 4), mode="bilinear").flatten(2).transpose(1, 2)
        small = small if (rows, cols) != (4, 4) else own
        torch.testing.assert_close(one_grid[place : place + 1], torch.cat([other, small], dim=-1), atol=1e-5, rtol=1e-5)
        one_alone = shuffled.image_processor.preprocess(pictures[place], return_tensors="pt")["pixel_values"]
        grid = shuffled.resolved.grid_of(*one_alone.shape[-2:])
        assert grid is not None
        assert whole[place].shape[1:] == (grid[0] * grid[1], 4 * 64)
    assert len(grids) > 2


@torch.no_grad()
def test_videos(vivit: Path) -> None:
    tower, alone = build_tower({"towers": [{"weights": str(vivit)}] * 2}), build_tower({"weights": str(vivit)})
    pooled = build_tower({"towers": [{"weights": str(vivit)}] * 2, "pool": 2})
    pixels = torch.randn(2, 4, 3, 56, 56)
    assert torch.equal(tower(pixels), torch.cat([alone(pixels)] * 2, dim=-1))
    assert (tower.grid, pooled.grid, pooled(pixels).shape) == ((2, 4, 4), (2, 2, 2), (2, 8, 64))
    sequence = build_tower({"towers": [{"weights": str(vivit)}] * 2, "combine": "sequence"})
    assert torch.equal(sequence(pixels), torch.cat([alone(pixels)] * 2, dim=1))


def logits(model: VisionLanguageModel, path: Path) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode_images(model.prepare(path).pixels)


def test_it_is_saved_and_opened_again(config: Path, golden: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(config, overrides=["tower.towers.1.dtype=bfloat16", "tower.check_finite=true"])
    model.save(tmp_path / "saved")
    again, wide = build_model(tmp_path / "saved"), golden / "pictures" / "wide.png"
    assert torch.equal(logits(again, wide), logits(model, wide))
    assert again.tower.resolved.geometry == model.tower.resolved.geometry
    saved = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())["tower"]
    assert {*saved} == {"towers", "check_finite"}
    assert [part["weights"] for part in saved["towers"]] == [f"./tower/{n}/model.safetensors" for n in range(3)]
    assert [part["dtype"] for part in saved["towers"]] == ["float32", "bfloat16", "float32"]
    assert isinstance(model.tower, FusedTower)
    for place, part in enumerate(model.tower.parts):
        assert part.encoder is not None
        stored = load_file(tmp_path / "saved" / "tower" / str(place) / "model.safetensors")
        assert stored.keys() == part.encoder.state_dict().keys()
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text())
    assert len(record["sources"]["tower"]["parts"]) == 3
    assert all(part["files"] for part in record["sources"]["tower"]["parts"])
    assert record["made_by"]["tower/1"]["distribution"] == "vita-core"
    again.save(tmp_path / "twice")
    assert torch.equal(logits(build_model(tmp_path / "twice"), wide), logits(model, wide))
    with pytest.raises(VitaError, match=r"several encoders .* Try: model.save\(DIR\)"):
        again.export(tmp_path / "vita", source=golden / "vita15")


def test_a_single_tower_is_saved_without_the_keys_of_several(tiny_config: Path, tmp_path: Path) -> None:
    build_model(tiny_config).save(tmp_path / "saved")
    saved = yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text())["tower"]
    assert not {"combine", "grid", "towers"} & saved.keys()


def test_a_saved_part_that_is_missing(config: Path, tmp_path: Path) -> None:
    build_model(config).save(tmp_path / "saved")
    (tmp_path / "saved" / "tower" / "1" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"^tower.towers.1: "):
        build_model(tmp_path / "saved")


@pytest.mark.slow
def test_commands(config: Path, golden: Path, tmp_path: Path) -> None:
    """``vita encode --picture-map`` and ``vita run``; the features are those of the tower."""
    wide, tall = (str(golden / "pictures" / name) for name in ("wide.png", "tall.png"))
    out, drawn = tmp_path / "f.safetensors", tmp_path / "map.png"
    done = vita("encode", config, wide, tall, "--out", out, "--picture-map", drawn)
    assert done.returncode == 0, done.stderr
    with safe_open(out, "pt") as file:
        assert file.metadata()["grid"] == "4x4"
        assert file.metadata()["tower"] == "fused"
        assert file.metadata()["weights"].count(" + ") == 2
    loaded = load_config(config)
    tower = build_tower(loaded.tower)
    features = load_file(out)
    with torch.no_grad():
        for name in (wide, tall):
            torch.testing.assert_close(features[name], tower(prepare(tower, loaded.images, name).pixels))
    with Image.open(drawn) as sheet:
        assert sheet.size == (672, 672)
    done = vita("run", config, "--image", wide, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tower"] == "fused"
    done = vita("encode", config, wide, "--out", out, "--picture-map", drawn, "--set", "tower.combine=sequence")
    assert done.returncode == 2
    assert "tower.combine" in done.stderr


@pytest.mark.slow
def test_it_is_trained(config: Path, captioned: Path, tmp_path: Path, golden: Path) -> None:
    """The projector learns on the features of all parts, and the model that is written answers."""
    text = config.read_text() + (
        "training: {steps: 3, batch_size: 2, warm_start_steps: 2, warm_start_batch: 2, variants: 1, eval_steps: 3}\n"
    )
    config.write_text(text)
    out = tmp_path / "out"
    scores = train(load_config(config), [captioned], out)
    assert scores["samples"] == 11
    model = build_model(out)
    assert model.ask(golden / "pictures" / "wide.png", "what is this ?").visual_tokens == 16
    record = json.loads((out / "provenance.json").read_text())
    assert len(record["weights"]["tower"]["parts"]) == 3


@pytest.mark.slow
def test_a_map_needs_a_grid(tower_examples: Examples, tmp_path: Path, tiny_llm: Path, golden: Path) -> None:
    config = write(tmp_path, tiny_llm, tower_examples["clip"], tower_examples["siglip"], combine="sequence")
    wide, out = golden / "pictures" / "wide.png", tmp_path / "f.safetensors"
    done = vita("encode", config, wide, "--out", out, "--picture-map", tmp_path / "m.png")
    assert done.returncode == 2
    assert (
        "because `tower.combine: sequence` leaves no grid. Try: leave it out, or `--set tower.combine=channel`"
        in done.stderr
    )
    assert vita("encode", config, wide, "--out", out).returncode == 0
    assert load_file(out)[str(wide)].shape == (1, 32, 32)


def test_code_of_vita_and_llava_runs(config: Path, golden: Path) -> None:
    """The names that forked code reads of a tower, and the trainers' call with pixels of several encoders."""
    torch.manual_seed(0)
    model = build_model(config)
    tower = model.get_vision_tower()
    assert (tower.hidden_size, tower.num_patches, tower.is_loaded) == (32 + 1280 + 32, 16, True)
    assert tower.dummy_feature.shape == (1, 1344)
    assert not any(parameter.requires_grad for parameter in tower.vision_tower.parameters())  # type: ignore[union-attr]  # None only before load_model
    prepared = [model.prepare(golden / "pictures" / name).pixels for name in ("wide.png", "tall.png")]
    images = tower.image_processor.preprocess(
        [Image.open(golden / "pictures" / name) for name in ("wide.png", "tall.png")], return_tensors="pt"
    )["pixel_values"]
    ids = torch.tensor([[5, -200, 6], [7, -200, 8]])
    with torch.no_grad():
        for given in (images, prepared, [*images]):
            _, _, _, _, embeddings, _ = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, given)
            assert embeddings is not None
            assert embeddings.shape == (2, 18, 24)
            each = torch.stack([model.encode_images(pixels)[0] for pixels in prepared])
            torch.testing.assert_close(embeddings[:, 1:17], each)


@pytest.mark.usefixtures("clean_registry")
def test_a_tower_of_a_plugin_is_a_part(tower_examples: Examples, tmp_path: Path, golden: Path) -> None:
    class Doubled(ClipTower):
        """CLIP, with features twice as large."""

        def encode(self, pixels: torch.Tensor, layers: Sequence[int]) -> Any:
            states, grid = super().encode(pixels, layers)
            return {layer: 2 * state for layer, state in states.items()}, grid

    module = types.ModuleType("doubled_plugin")
    vars(module)["Doubled"] = Doubled
    sys.modules["doubled_plugin"] = module
    own = next(spec for spec in list_towers() if spec.name == "clip")
    register(replace(own, name="doubled", factory="doubled_plugin:Doubled", model_types=("doubled",), hub_ids={}))
    other = Path(shutil.copytree(golden / "clip", tmp_path / "doubled"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "doubled"}))
    parts = [tower_examples["clip"], {"weights": str(other)}]
    tower, pixels = build_tower({"towers": parts}), torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        once, twice = tower(pixels).chunk(2, dim=-1)
    assert torch.equal(twice, 2 * once)
    assert isinstance(tower, FusedTower)
    assert [part.resolved.spec.name for part in tower.parts] == ["clip", "doubled"]


def test_native_resolution_answers(
    naflex: dict[str, Any], tower_examples: Examples, tmp_path: Path, tiny_llm: Path
) -> None:
    """Pictures of several sizes in one batch, each with its own number of tokens; where the native part is second, with one."""
    torch.manual_seed(0)
    paths = [tmp_path / f"{width}.png" for width, _ in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        picture(*size).save(path)
    alone, clip = build_tower(naflex), tower_examples["clip"]
    prepared = [alone.image_processor.preprocess(picture(*size))["pixel_values"] for size in SIZES]
    own = [alone(pixels)[0].shape[1] for pixels in prepared]
    for parts, images, wanted in (
        ((naflex, clip), "{}", own),
        ((clip, naflex), "{}", [16] * 4),
        ((clip, naflex), "{tiles: {max: 2}}", None),
    ):
        model = build_model(write(tmp_path, tiny_llm, *parts, images=images))
        answers = [model.ask(path, "what is this ?") for path in paths]
        found = [answer.visual_tokens for answer in answers]
        assert found == (wanted or [16 * sum(answer.tiles) for answer in answers])
        each = model.ask_each(paths, "what is this ?")
        assert [answer.visual_tokens for answer in each] == found
        assert [answer.token_ids for answer in each] == [answer.token_ids for answer in answers]


def test_a_reduction_of_a_part_is_not_trained_with_the_others(
    tower_examples: Examples, tmp_path: Path, tiny_llm: Path
) -> None:
    learned = tower_examples["siglip"] | {"reduce": {"type": "resampler", "queries": 4}}
    config = load_config(write(tmp_path, tiny_llm, tower_examples["clip"], learned, combine="sequence"))
    message = r"^tower.towers.1.reduce\[0\].weights: missing: 'resampler' learns, .* not trained with the others. Try: train it"
    for untrained in (True, False):
        with pytest.raises(VitaError, match=message):
            build(resolve(config), untrained=untrained)


@torch.no_grad()
def test_reductions_that_learn_are_saved_with_their_part(
    tower_examples: Examples, tmp_path: Path, tiny_llm: Path, golden: Path
) -> None:
    """One in a part and one of the whole: each is written beside what it belongs to, and opens again."""
    torch.manual_seed(0)
    own, whole = {"type": "resampler", "queries": 4}, {"type": "resampler", "queries": 9}
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    for name, settings in (("own", siglip | {"reduce": own}), ("whole", {"towers": [clip, siglip], "reduce": whole})):
        tower = build_resolved(resolve_tower(settings), "cpu", untrained=True)
        save_reduction(tmp_path / f"{name}.safetensors", tower.resolved.geometry.reductions[0], tower.reductions[0])
    part = siglip | {"reduce": own | {"weights": str(tmp_path / "own.safetensors")}}
    whole |= {"weights": str(tmp_path / "whole.safetensors")}
    for parts, more in (((clip, part), {"combine": "sequence"}), ((clip, siglip), {"reduce": whole})):
        model = build_model(write(tmp_path, tiny_llm, *parts, **more))
        model.save(tmp_path / "saved")
        again, wide = build_model(tmp_path / "saved"), golden / "pictures" / "wide.png"
        assert torch.equal(logits(again, wide), logits(model, wide))
    assert (tmp_path / "saved" / "reduce-0.safetensors").is_file()
