"""Stages with towers of every kind: what was trained opens again with the same bits, and what was frozen did not change."""

from __future__ import annotations

import functools
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from natives import saved_timm, saved_transformers
from safetensors.torch import load_file, save_file

from vita_core import VitaError, build_model
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training import running
from vita_core.training.data import PictureRef, Sample, Turn
from vita_core.training.joint import Joint, collate
from vita_core.training.making import SampleMaker
from vita_core.training.parts import roots
from vita_core.training.running import run_stages
from vita_core.training.stages import resolve_stages

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
STAGE = {"name": "only", "learning_rate": 1e-2, "steps": 3, "batch_size": 4, "warmup": 0.0}
FUSED = [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}]
UNPADDED = {"anyres": {"grids": [[1, 2], [2, 1]], "merge": "spatial_unpad", "newline": "newline.safetensors"}}
RESAMPLER = {"type": "resampler", "queries": 4, "width": 16, "heads": 2}


def whole_timm(name: str, folder: Path, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments)
    timm.models.save_for_hf(model, folder, model_args=arguments)
    return model


SAVED: dict[str, Callable[[Path], Any]] = {
    "naflex": saved_timm,
    "pixtral": functools.partial(saved_transformers, "pixtral"),
    "qwen": functools.partial(saved_transformers, "qwen2_5_vl"),
    "resnet": functools.partial(whole_timm, "test_resnet"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoders that this file needs, each as its library saves it."""
    folder = tmp_path_factory.mktemp("saved")
    for name, save in SAVED.items():
        save(folder / name)
    save_file({"image_newline": torch.randn(24)}, folder / "newline.safetensors")
    return folder


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that `run_stages` builds."""
    made: list[Any] = []

    def built(*args: Any, **options: Any) -> Any:
        made.append(build(*args, **options))
        return made[-1]

    monkeypatch.setattr(running, "build", built)
    return made


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "several, frozen": ({"towers": FUSED}, {}),
    "several, adapters": ({"towers": FUSED}, {"tower": {"lora": {"rank": 2}}}),
    "several, layers": ({"towers": FUSED}, {"tower": {"from_layer": 2}}),
    "several, layers of one": ({"towers": FUSED}, {"tower": {"from_layer": 3, "towers": [1]}}),
    "several, adapters in one": ({"towers": FUSED}, {"tower": {"lora": {"rank": 2}, "towers": [1]}}),
    "several, a reduction of the whole": ({"towers": FUSED, "reduce": RESAMPLER}, {"reduce": "full"}),
    "several, all": ({"towers": FUSED, "reduce": RESAMPLER}, {"reduce": "full", "tower": "full", "llm": "full"}),
    "naflex, frozen": ({"weights": "naflex"}, {}),
    "naflex, layers": ({"weights": "naflex"}, {"tower": {"from_layer": 2}}),
    "naflex, adapters": ({"weights": "naflex"}, {"tower": {"lora": {"rank": 2}}}),
    "naflex, a reduction": ({"weights": "naflex", "reduce": RESAMPLER}, {"reduce": "full"}),
    "pixtral, frozen": ({"weights": "pixtral"}, {}),
    "pixtral, layers": ({"weights": "pixtral"}, {"tower": {"from_layer": 1}}),
    "qwen, full": ({"weights": "qwen"}, {"tower": "full"}),
    "qwen, layers": ({"weights": "qwen"}, {"tower": {"from_layer": 2}}),
    "batch norms, frozen": ({"weights": "resnet", "image_size": 64}, {}),
    "batch norms, full": ({"weights": "resnet", "image_size": 64}, {"tower": "full"}),
    "batch norms, layers": ({"weights": "resnet", "image_size": 64}, {"tower": {"from_layer": 3}}),
    "tiles": ({"weights": str(GOLDEN / "clip"), "images": {"tiles": {"max": 2}}}, {"tower": {"from_layer": 2}}),
    "maps of tiles": ({"weights": str(GOLDEN / "clip"), "images": UNPADDED}, {}),
    "maps of tiles, full": ({"weights": str(GOLDEN / "clip"), "images": UNPADDED}, {"tower": "full"}),
    "decoder, full": ({"weights": str(GOLDEN / "clip")}, {"llm": "full"}),
    "decoder, layers": ({"weights": str(GOLDEN / "clip")}, {"llm": {"from_layer": 2}}),
}


def configured(
    tower: dict[str, Any], train: dict[str, Any], saved: Path, tiny_llm: Path, captioned: Path
) -> dict[str, Any]:
    own, images = dict(tower), deepcopy(tower.get("images", {}))
    own.pop("images", None)
    if "newline" in images.get("anyres", {}):
        images["anyres"]["newline"] = str(saved / images["anyres"]["newline"])
    if own.get("weights") in SAVED:
        own["weights"] = str(saved / own["weights"])
    return {
        "tower": own,
        "llm": {"weights": str(tiny_llm)},
        "images": images,
        "device": "cpu",
        "data": {"captions": {"path": str(captioned)}},
        "training": {"stages": [STAGE | {"train": {"projector": "full", **train}}]},
    }


def logits(model: Any) -> list[torch.Tensor]:
    """The logits of the answers about each golden picture, about two pictures, and of a text without one."""
    files = sorted((GOLDEN / "pictures").glob("*.png"))
    refs = [PictureRef(file.name, file) for file in files]
    samples = [Sample((ref,), (Turn(None, "a cat ."),)) for ref in refs]
    samples += [Sample((), (Turn("what is this ?", "a cup ."),))]
    samples += [Sample(tuple(refs[:2]), (Turn("what is <image> in <image> ?", "a dog ."),))]
    maker, found = SampleMaker(model, model.settings.prompt, None), []
    kept = model.llm.model.register_forward_hook(lambda *call: found.append(call[2].logits))
    model.eval()
    with torch.no_grad():
        for sample in samples:
            Joint(model)(collate([maker(sample)]))
    kept.remove()
    return found


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


LATER = {"several, layers", "several, adapters in one", "several, a reduction of the whole", "naflex, layers", "naflex, adapters",
         "pixtral, layers", "qwen, layers", "batch norms, layers", "maps of tiles", "decoder, layers"}  # fmt: skip
"""What the other cases have in parts: `make test-extras` tests them."""


@pytest.mark.parametrize(
    ("tower", "train"),
    [pytest.param(*case, id=name, marks=[pytest.mark.extras] if name in LATER else []) for name, case in CASES.items()],
)
def test_it_opens_with_the_same_logits(
    tower: dict[str, Any],
    train: dict[str, Any],
    saved: Path,
    tiny_llm: Path,
    captioned: Path,
    tmp_path: Path,
    models: list[Any],
) -> None:
    config = configured(tower, train, saved, tiny_llm, captioned)
    torch.manual_seed(0)
    before = build(resolve(config), untrained=True)
    run_stages(resolve(config), tmp_path / "out")
    after, again = models[0], build_model(tmp_path / "out")
    expected = logits(after)
    assert equal(logits(again), expected)
    assert not equal(logits(before), expected)
    for part, root in roots(before).items():
        kept, found = root.state_dict(), roots(again)[part].state_dict()
        if part not in ("projector", *train):
            assert kept.keys() == found.keys()
            assert all(torch.equal(value, found[key]) for key, value in kept.items()), part
    run_stages(resolve(config, ["training.cache=false"]), tmp_path / "uncached")
    assert equal(logits(build_model(tmp_path / "uncached")), expected)


def moved(before: Any, after: Any) -> set[str]:
    """The names of the tensors of two towers that differ."""
    found = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, found[name])}


def test_only_the_chosen_layers_of_the_chosen_encoder_change(
    saved: Path, tiny_llm: Path, captioned: Path, tmp_path: Path
) -> None:
    train = {"tower": {"from_layer": 3, "towers": [1]}}
    config = configured({"towers": FUSED}, train, saved, tiny_llm, captioned)
    before = build(resolve(config), untrained=True).tower
    run_stages(resolve(config), tmp_path / "out")
    names = moved(before, build_model(tmp_path / "out").tower)
    assert names
    block = next(name for name in names if ".fc1.weight" in name)
    assert {name.partition(".layers.")[0] for name in names} == {block.partition(".layers.")[0]}
    assert block.startswith("encoder.1.")
    count = before.parts[1].resolved.geometry.blocks
    assert {int(name.partition(".layers.")[2].partition(".")[0]) for name in names} == set(range(2, count))


def test_the_statistics_of_a_trained_stage_are_saved(
    saved: Path, tiny_llm: Path, captioned: Path, tmp_path: Path
) -> None:
    config = configured(
        {"weights": "resnet", "image_size": 64}, {"tower": {"from_layer": 3}}, saved, tiny_llm, captioned
    )
    before = build(resolve(config), untrained=True).tower
    run_stages(resolve(config), tmp_path / "out")
    names = moved(before, build_model(tmp_path / "out").tower)
    assert {name.rpartition(".")[2] for name in names} >= {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "weight",
    }
    assert names < set(before.state_dict())
    assert not any("stem" in name or "conv1" in name.split(".")[1] or "layer1" in name for name in names)


def test_encoders_keep_their_own_dtypes(
    saved: Path, tiny_llm: Path, captioned: Path, tmp_path: Path, models: list[Any]
) -> None:
    towers = [FUSED[0], FUSED[1] | {"dtype": "bfloat16"}]
    config = configured(
        {"towers": towers, "reduce": RESAMPLER}, {"tower": "full", "reduce": "full"}, saved, tiny_llm, captioned
    )
    run_stages(resolve(config), tmp_path / "out")
    assert equal(logits(build_model(tmp_path / "out")), logits(models[0]))
    found = {part: load_file(tmp_path / "out" / "tower" / part / "model.safetensors") for part in "01"}
    dtypes = {part: {value.dtype for value in state.values()} for part, state in found.items()}
    assert dtypes == {"0": {torch.float32}, "1": {torch.bfloat16}}


def test_a_reduction_inside_a_part_is_trained_with_its_encoder(
    saved: Path, tiny_llm: Path, captioned: Path, tmp_path: Path, models: list[Any]
) -> None:
    wide = RESAMPLER | {"width": 32}
    alone = configured({**FUSED[1], "reduce": wide}, {"reduce": "full"}, saved, tiny_llm, captioned)
    run_stages(resolve(alone), tmp_path / "alone")
    step = wide | {"weights": str(tmp_path / "alone" / "reduce-0.safetensors")}
    towers = [FUSED[0], {**FUSED[1], "reduce": step}]
    train = {"tower": {"from_layer": 3, "towers": [1]}}
    config = configured({"towers": towers, "combine": "sequence"}, train, saved, tiny_llm, captioned)
    before = build(resolve(config), untrained=True).tower
    run_stages(resolve(config), tmp_path / "out")
    again = build_model(tmp_path / "out")
    assert equal(logits(again), logits(models[-1]))
    names = moved(before, again.tower)
    assert any(name.startswith("encoder.1.reductions.0.") for name in names)
    assert not any(name.startswith("encoder.0.") for name in names)


BAD = {
    "one encoder": (FUSED[0], {"towers": [0], "full": True}, "towers: it chooses among several encoders"),
    "no such encoder": ({"towers": FUSED}, {"towers": [2], "full": True}, "there is no encoder 2 .* in 0..1"),
    "a layer of one": ({"towers": FUSED}, {"towers": [1], "from_layer": 9}, "9 is after the last layer that runs, 3"),
    "of another part": ({"towers": FUSED}, {}, "train.llm.towers: it chooses among several encoders"),
}


@pytest.mark.parametrize(("tower", "how", "message"), BAD.values(), ids=list(BAD))
def test_encoders_that_are_not_there(
    tower: dict[str, Any], how: dict[str, Any], message: str, saved: Path, tiny_llm: Path, captioned: Path
) -> None:
    train = {"tower": how} if how else {"llm": {"full": True, "towers": [0]}}
    with pytest.raises(VitaError, match=message):
        resolve_stages(resolve(configured(tower, train, saved, tiny_llm, captioned)), ["captions"])
