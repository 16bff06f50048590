"""The feature cache of stages: what is computed again, what is not, and that training does not notice."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from vita_core import VitaError, build_model
from vita_core.config.schema import Config, config_from, load_config
from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training import running
from vita_core.training.cache.frozen import Features, FrozenTower, Keyed
from vita_core.training.cache.store import FeatureStore
from vita_core.training.data import PictureRef, read_samples
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.running import run_stages
from vita_core.training.sets import kept_sets, open_sets

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
ALIGN = {"name": "align", "train": {"projector": "full"}, "learning_rate": 1e-2, "epochs": 3, "batch_size": 4}
GB = 10**9


def watch(model: Any, runs: list[int]) -> None:
    """Count the runs of the layer that cuts pictures into patches."""
    for layer in model.tower.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda *_: runs.append(1))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each run of the encoder that `run_stages` builds."""
    runs: list[int] = []

    def built(*args: Any, **options: Any) -> Any:
        model = build(*args, **options)
        watch(model, runs)
        return model

    monkeypatch.setattr(running, "build", built)
    return runs


@pytest.fixture
def sections(tiny_llm: Path, captioned: Path) -> dict[str, Any]:
    """A stage on twelve captions of three pictures, three epochs."""
    return {
        "tower": {"weights": str(GOLDEN / "clip"), "select_layer": -2},
        "llm": {"weights": str(tiny_llm)},
        "device": "cpu",
        "data": {"captions": {"path": str(captioned), "held_out": 0.25}},
        "training": {"stages": [ALIGN]},
    }


def trained(out: Path) -> dict[str, torch.Tensor]:
    files = sorted(out.glob("*.safetensors"))
    assert files
    return {f"{file.name} {name}": value for file in files for name, value in load_file(file).items()}


def same(found: Path, expected: Path) -> bool:
    one, other = trained(found), trained(expected)
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiles": {"images": {"tiles": {"max": 3}}},
    "a reduction that is trained": {
        "tower": {
            "reduce": [{"type": "pool", "window": 2}, {"type": "resampler", "queries": 4, "width": 16, "heads": 2}]
        },
        "training": {"stages": [ALIGN | {"train": {"projector": "full", "reduce": "full"}}]},
    },
    "two encoders": {
        "tower": {
            "weights": None,
            "select_layer": None,
            "towers": [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}],
        }
    },
    "bfloat16": {"training": {"stages": [ALIGN | {"precision": "bfloat16"}]}},
}


def load_sections(sections: dict[str, Any]) -> Config:
    return config_from(sections, [], "mine")


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    made = {**below, **{k: merged(below[k], v) if isinstance(v, dict) and k in below else v for k, v in above.items()}}
    return {key: value for key, value in made.items() if value is not None}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_training_is_the_same_with_and_without(
    case: dict[str, Any], sections: dict[str, Any], tmp_path: Path, counted: list[int]
) -> None:
    changed = merged(sections, case)
    run_stages(resolve(changed), tmp_path / "kept")
    kept = len(counted)
    run_stages(resolve(changed, ["training.cache=false"]), tmp_path / "again")
    assert kept < len(counted) - kept
    assert same(tmp_path / "kept", tmp_path / "again")
    run_stages(resolve(changed, [f"training.cache.path={tmp_path / 'kept' / 'work' / 'cache'}"]), tmp_path / "other")
    assert same(tmp_path / "other", tmp_path / "kept")


def test_later_epochs_open_no_picture(
    sections: dict[str, Any], captioned: Path, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three pictures is encoded once; then the files may go."""
    training_step = running.StageTrainer.training_step

    def step(self: Any, *args: Any, **options: Any) -> Any:
        if self.state.global_step == 3:  # 9 samples in batches of 4
            for picture in captioned.parent.glob("*.png"):
                picture.unlink()
        return training_step(self, *args, **options)

    run_stages(resolve(sections, ["training.cache=false"]), tmp_path / "without")
    counted.clear()
    monkeypatch.setattr(running.StageTrainer, "training_step", step)
    run_stages(resolve(sections), tmp_path / "out")
    assert not list(captioned.parent.glob("*.png"))
    assert len(counted) == 3
    assert not (tmp_path / "out" / "rejected.jsonl").exists()
    assert same(tmp_path / "out", tmp_path / "without")
    assert load_config(tmp_path / "out" / "config.yaml").training.stages


KEPT: dict[str, tuple[list[dict[str, Any]], Any, set[str]]] = {
    "one epoch": ([ALIGN | {"epochs": 1}], "auto", set()),
    "some steps": ([{**ALIGN, "epochs": None, "steps": 3}], "auto", {"captions"}),
    "few steps": ([{**ALIGN, "epochs": None, "steps": 2}], "auto", set()),
    "two stages": ([ALIGN | {"epochs": 1}, ALIGN | {"epochs": 1, "name": "again"}], "auto", {"captions"}),
    "two data sets": ([ALIGN | {"epochs": 1}, ALIGN | {"epochs": 1, "name": "b", "data": "more"}], "auto", set()),
    "a tower that is trained": ([ALIGN | {"train": {"projector": "full", "tower": "full"}}], "auto", set()),
    "one epoch, kept": ([ALIGN | {"epochs": 1}], {}, {"captions", "more"}),
}  # fmt: skip


@pytest.mark.parametrize(("stages", "cache", "kept"), KEPT.values(), ids=list(KEPT))
def test_what_is_seen_again_is_kept(
    stages: list[dict[str, Any]], cache: Any, kept: set[str], sections: dict[str, Any], captioned: Path
) -> None:
    data = {"captions": {"path": str(captioned), "held_out": 0.25}, "more": {"path": str(captioned), "held_out": 0.25}}
    only = [{**stage, "data": stage.get("data", "captions")} for stage in stages]
    config = load_sections(sections | {"data": data, "training": {"stages": only, "cache": cache}})
    assert kept_sets(config.training, open_sets(config.data, 0)) == kept


def test_of_pictures_that_are_seen_once_nothing_is_kept(
    sections: dict[str, Any], tmp_path: Path, counted: list[int]
) -> None:
    """Only of those that are held out, which every score sees."""
    once = resolve(merged(sections, {"training": {"stages": [ALIGN | {"epochs": 1, "eval_steps": 1}]}}))
    run_stages(once, tmp_path / "out")
    store = FeatureStore(tmp_path / "out" / "work" / "cache", GB)
    store.get("none")
    held = open_sets(once.config.data, once.config.training.seed)["captions"][1]
    assert held is not None
    assert len(store.index) == len({held.source.sample(index).pictures for index in range(len(held.source))}) < 3
    run_stages(resolve(once.config.model_dump(), ["training.cache={}"]), tmp_path / "kept")
    assert same(tmp_path / "kept", tmp_path / "out")


def test_a_tower_that_an_earlier_stage_trained_is_another(sections: dict[str, Any], tmp_path: Path) -> None:
    """Its files are the same, its weights are not; a stage that trains it has no cache."""
    stages = [
        {**ALIGN, "name": "tower", "train": {"projector": "full", "tower": "full"}, "epochs": 1},
        {**ALIGN, "name": "after", "epochs": 1},
    ]
    runs = []
    for cache in ("{}", "false"):
        out = tmp_path / cache.strip("{}") / "out"
        shared = "{path: " + str(tmp_path / "shared") + "}" if cache == "{}" else cache
        run_stages(
            resolve(merged(sections, {"training": {"stages": [ALIGN]}}), [f"training.cache={shared}"]), out / "first"
        )
        run_stages(
            resolve(merged(sections, {"training": {"stages": stages}}), [f"training.cache={shared}"]), out / "both"
        )
        runs.append(out / "both")
    assert same(*runs)


def ref(path: Path) -> PictureRef:
    return PictureRef(path.name, path)


def encoder_runs(config: dict[str, Any], folder: Path, picture: Path, *, several: bool = False, **options: Any) -> int:
    """Encode a picture with the cache in `folder`. Return how often the encoder ran, and check the tokens."""
    resolved = resolve(config)
    if "owner" in options:
        owner = dataclasses.replace(resolved.tower.owner, version=options.pop("owner"))
        resolved = dataclasses.replace(resolved, tower=dataclasses.replace(resolved.tower, owner=owner))
    runs: list[int] = []
    model = build(resolved, untrained=True)
    watch(model, runs)
    frozen = FrozenTower(model, FeatureStore(folder, GB), options.pop("precision", "float32"))
    (found,) = frozen.encode_each([frozen.visual(ref(picture), several=several)])
    frozen.flush()
    count = len(runs)
    uncached = FrozenTower(model, None, frozen.precision)
    (expected,) = uncached.encode_each([uncached.visual(ref(picture), several=several)])
    assert torch.equal(found, expected)
    return count


def changed_copy(folder: Path, change: Callable[[Path], None]) -> str:
    shutil.copytree(GOLDEN / "clip", folder)
    change(folder)
    return str(folder)


def other_mean(folder: Path) -> None:
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))


def other_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.endswith("layers.0.mlp.fc1.bias"))
    state[name] = state[name] + 1e-3
    before = file.stat()
    save_file(state, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def nothing(folder: Path) -> None:
    """The same weights in another place."""


INGREDIENTS: dict[str, dict[str, Any]] = {
    "layer": {"tower": {"select_layer": -3}},
    "feature": {"tower": {"select_feature": "cls_patch"}},
    "norm": {"tower": {"norm": True}},
    "scale": {"tower": {"feature_scale": 0.5}},
    "s2": {"tower": {"s2": {"scales": [56, 112]}}},
    "a reduction": {"tower": {"pool": 2}},
    "another reduction": {"tower": {"reduce": {"type": "pool", "window": 2}}},
    "dtype": {"tower": {"dtype": "float16"}},
    "attention": {"tower": {"attention": "eager"}},
    "aspect": {"images": {"aspect": "pad"}},
    "tiles": {"images": {"tiles": {"max": 2}}},
    "size": {"tower": {"image_size": 28}},
}


def test_every_ingredient_counts(sections: dict[str, Any], tmp_path: Path) -> None:
    cache, picture = tmp_path / "cache", tmp_path / "picture.png"
    shutil.copy(GOLDEN / "pictures" / "wide.png", picture)
    base = {key: sections[key] for key in ("tower", "llm", "device")}
    assert encoder_runs(base, cache, picture) == 1
    assert encoder_runs(base, cache, picture) == 0
    for name, change in INGREDIENTS.items():
        assert encoder_runs(merged(base, change), cache, picture) > 0, name
        assert encoder_runs(merged(base, change), cache, picture) == 0, name
    for name, change in {"mean": other_mean, "weight": other_weight}.items():
        weights = changed_copy(tmp_path / name, change)
        assert encoder_runs(merged(base, {"tower": {"weights": weights}}), cache, picture) == 1, name
    assert encoder_runs(base, cache, picture, owner="99.0") == 1
    assert encoder_runs(base, cache, picture, precision="bfloat16") == 1
    assert encoder_runs(base, cache, picture) == 0
    with Image.open(picture) as opened:
        opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert encoder_runs(base, cache, picture) == 1


@pytest.mark.reliability(
    door="features of a training without stages",
    fault="weights or a picture that change within their size and time",
    expected="the features are made again",
)
def test_features_without_stages_are_not_stale(sections: dict[str, Any], captioned: Path, tmp_path: Path) -> None:
    """Neither if the weights nor if a picture change, whatever the names, sizes and times of the files say."""
    weights = changed_copy(tmp_path / "mine", nothing)
    tower = {"weights": weights, "select_layer": -2}
    config = config_from(
        {"tower": tower, "llm": sections["llm"], "device": "cpu", "training": {"variants": 1}}, [], "mine"
    )
    samples, picture = read_samples(captioned), captioned.parent / "tall.png"

    def opened() -> FeatureCache:
        return FeatureCache(tmp_path / "work", config, build(resolve(config), untrained=True).tower, samples)

    cache = opened()
    cache.fill()
    before = cache.features(1, 1)
    assert torch.equal(opened().features(1, 1), before)
    (tmp_path / "work" / "features.json").write_text("{}")  # damaged
    assert not opened().features(1, 1).any()
    other_weight(Path(weights))
    changed = opened()
    assert not changed.features(1, 1).any()
    changed.fill()
    assert not torch.equal(changed.features(1, 1), before)
    content, state = picture.read_bytes(), picture.stat()
    picture.write_bytes(
        content[:-1] + bytes([content[-1] ^ 1])
    )  # of the checksum of the last chunk, which PIL does not read
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not opened().features(1, 1).any()


def test_what_has_no_part_in_the_tokens_does_not_count(sections: dict[str, Any], tmp_path: Path) -> None:
    cache, picture = tmp_path / "cache", GOLDEN / "pictures" / "wide.png"
    base = {key: sections[key] for key in ("tower", "llm", "device")}
    assert encoder_runs(base, cache, picture) == 1
    same_tokens: list[dict[str, Any]] = [
        {"tower": {"weights": changed_copy(tmp_path / "moved", nothing)}},
        {"tower": {"reduce": {"type": "resampler", "queries": 4, "width": 16, "heads": 2}}},
        {"projector": {"type": "linear"}},
        {"prompt": {"template": "plain"}},
    ]
    for change in same_tokens:
        assert encoder_runs(merged(base, change), cache, picture) == 0, change
    copied = tmp_path / "another name.png"
    shutil.copy(picture, copied)
    assert encoder_runs(base, cache, copied) == 0


def test_a_file_that_changes_is_read_again(sections: dict[str, Any], tmp_path: Path) -> None:
    """Within one run too, where its hash is remembered."""
    picture = tmp_path / "picture.png"
    shutil.copy(GOLDEN / "pictures" / "wide.png", picture)
    model = build(resolve(sections))
    frozen = FrozenTower(model, FeatureStore(tmp_path / "cache", GB), "float32")
    frozen.encode_each([frozen.visual(ref(picture), several=False)])
    assert isinstance(frozen.visual(ref(picture), several=False), Features)
    shutil.copy(GOLDEN / "pictures" / "tall.png", picture)
    assert isinstance(frozen.visual(ref(picture), several=False), Keyed)
    picture.unlink()
    with pytest.raises(VitaError, match="a picture is missing"):
        frozen.visual(ref(picture), several=False)


def tensor(number: int) -> torch.Tensor:
    return torch.full((1, 4, 8), float(number))


def test_two_processes_share_what_is_finished(tmp_path: Path) -> None:
    one, other = FeatureStore(tmp_path, GB), FeatureStore(tmp_path, GB)
    one.add("a", tensor(1), (1, 2, 3, 4))
    assert other.get("a") is None
    one.flush()
    other.add("b", tensor(2).to(torch.bfloat16), (5, 6, 7, 8))
    other.flush()
    for store in (one, other, FeatureStore(tmp_path, GB)):
        for key, value, numbers in (("a", tensor(1), (1, 2, 3, 4)), ("b", tensor(2).bfloat16(), (5, 6, 7, 8))):
            found = store.get(key)
            assert found is not None
            assert found[0].dtype == value.dtype
            assert torch.equal(found[0], value)
            assert found[1] == numbers
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "a bit", "a header", "a number", "a shape", "empty"])
@pytest.mark.reliability(
    door="feature cache",
    fault="shards that are cut, empty, or differ in a bit, the header, a number or a shape",
    expected="they count as missing, and are written again",
)
def test_damaged_shards_count_as_missing(tmp_path: Path, damage: str) -> None:
    open_before = FeatureStore(tmp_path, GB)
    for number in range(3):
        open_before.add(str(number), tensor(number), (1, 1, 1, 1))
        if number != 1:
            open_before.flush()  # 0, then 1 and 2
    shard = next(file for file in tmp_path.iterdir() if b'"2"' in file.read_bytes())
    content = bytearray(shard.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
        content[-140] ^= 1
    elif damage == "a header":
        content[9] = 0
    elif damage == "a number":  # of those that are kept with a tensor
        content = content.replace(b"1, 1, 1]", b"1, 1, 3]")
    elif damage == "a shape":  # of as many values
        content = content.replace(b"[1,4,8]", b"[1,8,4]")
    shard.write_bytes(content[:-5] if damage == "cut" else b"" if damage == "empty" else content)
    for store in (open_before, FeatureStore(tmp_path, GB)):
        if damage in ("cut", "a bit", "empty") or store is not open_before:  # the other has read the header before
            assert store.get("2") is None
            assert store.get("1") is None
        found = store.get("0")
        assert found is not None
        assert torch.equal(found[0], tensor(0))
    assert len(list(tmp_path.iterdir())) == 1
    open_before.add("2", tensor(2), (1, 1, 1, 1))
    open_before.flush()
    assert FeatureStore(tmp_path, GB).get("2") is not None


def test_the_oldest_shards_go_first(tmp_path: Path) -> None:
    kept = tmp_path / "model.safetensors"
    save_file({"of the user": torch.zeros(10_000)}, kept)
    store, large = FeatureStore(tmp_path, 40_000), torch.zeros(1, 50, 50)
    for number in range(8):
        store.add(str(number), large, (1, 1, 1, 1))  # 10 kB: a shard each
    names = [number for number in range(8) if store.get(str(number)) is not None]
    assert names == [5, 6, 7]
    assert sum(file.stat().st_size for file in tmp_path.glob("features-*")) <= 40_000
    assert kept.exists()
    later = FeatureStore(tmp_path, 40_000)
    assert [number for number in range(8) if later.get(str(number)) is not None] == [5, 6, 7]


@pytest.mark.reliability(
    door="feature cache",
    fault="a full disk",
    expected="an error with the space; the features are written later",
)
def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    """The limit on the size of a file stands for a full disk."""
    store = FeatureStore(tmp_path, GB)
    store.add("a", tensor(1), (1, 1, 1, 1))
    store.flush()
    store.add("b", torch.zeros(1, 500, 10_000), (1, 1, 1, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000_000, hard))  # no other file of the tests is so large
    try:
        with pytest.raises(VitaError, match=r"no space .* 20,000,\d\d\d are needed.*training\.cache\.path"):
            store.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(tmp_path.iterdir())) == 1
    store.flush()
    again = FeatureStore(tmp_path, GB)
    assert again.get("a") is not None
    assert again.get("b") is not None


def test_the_cache_is_relative_to_the_config(sections: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "folder" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(sections | {"training": {"cache": {"path": "kept/features", "max_gb": 0.5}}}))
    cache = load_config(file).training.cache
    assert cache
    assert cache.path == str(file.parent / "kept" / "features")
    assert load_config(file, ["training.cache=false"]).training.cache is False


def test_a_trained_reduction_reads_a_tower_of_another_dtype(sections: dict[str, Any], tmp_path: Path) -> None:
    change = {
        "tower": {"dtype": "bfloat16", "reduce": {"type": "resampler", "queries": 4, "width": 16, "heads": 2}},
        "training": {"stages": [ALIGN | {"epochs": 1, "train": {"projector": "full", "reduce": "full"}}]},
    }
    run_stages(resolve(merged(sections, change)), tmp_path / "out")
    assert build_model(tmp_path / "out").ask(GOLDEN / "pictures" / "wide.png").visual_tokens == 4


WORK = """
import sys, torch
from pathlib import Path
from vita_core.training.cache.store import FeatureStore

folder, own = Path(sys.argv[1]), int(sys.argv[2])
store, found = FeatureStore(folder, 200_000), 0
for number in range(300):
    key = str((number // 10 * (35, 55)[own] + number % 5) % 60)  # each again after five others, with a flush between
    kept = store.get(key)
    if kept is None:
        store.add(key, torch.full((50, 50), float(key)), (int(key),))
        if number % 5 == 0:
            store.flush()
    else:
        found += 1
        assert kept[1] == (int(key),) and torch.equal(kept[0], torch.full((50, 50), float(key)))
store.flush()
print(found)
"""


@pytest.mark.slow
@pytest.mark.reliability(
    door="feature cache",
    fault="two processes that write and delete at once",
    expected="whole tensors, within the bound of the cache",
)
def test_two_processes_at_once_read_whole_tensors_and_stay_within_the_bound(tmp_path: Path) -> None:
    """60 tensors of 10 kB, of which 20 fit: each process deletes shards while the other reads them."""
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WORK, str(folder)]
    both = [
        subprocess.Popen([*command, own], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for own in "01"
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert all(int(out) > 0 for out, _ in told)
    files = [*folder.iterdir()]
    assert all(file.match("features-*.safetensors") for file in files)
    assert sum(file.stat().st_size for file in files) <= 200_000
