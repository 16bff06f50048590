"""The whole probe on tiny towers and pictures whose labels can be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden_settings
from labelled import folders, picture
from PIL import Image
from sklearn.linear_model import LogisticRegression

from vita_core import build_tower
from vita_core.errors import ConfigError
from vita_core.models.pictures import prepare
from vita_core.planning.resolution import Resolved, resolve
from vita_core.probing.probe import probe
from vita_core.probing.splits import divide

pytestmark = pytest.mark.usefixtures("feature_cache")


def opened(name: str, **tower: Any) -> Resolved:
    return resolve({"tower": {**golden_settings(name), **tower}, "device": "cpu"}, tower_only=True)


def without_times(found: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in found.items() if key != "timings"}, sort_keys=True)


def pooled(name: str, photos: Path) -> np.ndarray[Any, Any]:
    """The mean tokens of the photos, sorted, by the tower alone."""
    tower, images = build_tower(golden_settings(name)).eval(), opened(name).config.images
    with torch.inference_mode():
        rows = [
            tower(prepare(tower, images, Image.open(file)).pixels)[0].mean(0) for file in sorted(photos.rglob("*.png"))
        ]
    return torch.stack(rows).double().numpy()


def by_hand_rank(features: np.ndarray[Any, Any]) -> float:
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def by_hand(features: np.ndarray[Any, Any], photos: Path, seed: int, cost: float) -> dict[str, float]:
    """The accuracies on the test pictures: of the 20 nearest by their weighted votes, and of scikit-learn's regression."""
    labels = np.array([file.parent.name for file in sorted(photos.rglob("*.png"))])
    splits = divide(range(48), seed=seed, labels=[*labels])
    train, test = [*splits.train], [*splits.test]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for place in test:
        likeness = unit[train] @ unit[place]
        votes: dict[str, float] = {}
        for near in np.argsort(-likeness)[:20]:
            votes[labels[train][near]] = votes.get(labels[train][near], 0.0) + float(np.exp(likeness[near] / 0.07))
        right += max(votes, key=lambda label: votes[label]) == labels[place]
    mean, deviation = features[train].mean(0), features[train].std(0)
    scaled = (features - mean) / deviation
    model = LogisticRegression(C=cost, max_iter=1000).fit(scaled[train], labels[train])
    return {"knn": right / len(test), "linear": float(model.score(scaled[test], labels[test]))}


def test_two_towers_on_pictures_of_three_colours(photos: Path) -> None:
    configs = {"clip": opened("clip"), "siglip": opened("siglip")}
    found = probe(configs, photos, seed=1)
    data = found["data"]
    assert [data[key] for key in ("pictures", "labels", "origin", "groups")] == [48, 3, "folder", 48]
    assert [data[key] for key in ("train", "validation", "test")] == [34, 7, 7]
    clip, siglip = found["configs"]
    assert (clip["config"], clip["tower"], siglip["tower"]) == ("clip", "clip", "siglip")
    for scores in (clip["configured"], siglip["configured"]):
        assert scores["linear"]["test"] > 0.7
        for measure in ("knn", "linear"):
            assert 0 <= scores[measure]["low"] <= scores[measure]["test"] <= scores[measure]["high"] <= 1
        assert 1 <= scores["rank_me"] <= 48
        assert scores["retrieval"]["pool"] == 48 * scores["tokens"]
        assert scores["retrieval"]["map"] > 2 * scores["retrieval"]["chance"]
    features = {name: pooled(name, photos) for name in configs}
    for name, told in zip(configs, (clip, siglip), strict=True):
        assert told["configured"]["rank_me"] == pytest.approx(by_hand_rank(features[name]), rel=1e-4)
        for measure, score in by_hand(features[name], photos, 1, told["configured"]["linear"]["c"]).items():
            assert told["configured"][measure]["test"] == pytest.approx(score, abs=1e-5)
    # linear CKA in its other form, of the centred Gram matrices (arXiv 1905.00414, equation 4)
    grams = [each @ each.T for each in (one - one.mean(0) for one in features.values())]
    cka = (grams[0] * grams[1]).sum() / np.linalg.norm(grams[0]) / np.linalg.norm(grams[1])
    assert found["cka"]["matrix"] == [[1, pytest.approx(cka, abs=1e-5)], [pytest.approx(cka, abs=1e-5), 1]]
    assert cka < 0.99
    pair = next(pair for pair in found["pairs"] if pair["measure"] == "linear")
    difference = clip["configured"]["linear"]["test"] - siglip["configured"]["linear"]["test"]
    assert pair["difference"] == pytest.approx(difference, abs=1e-5)
    assert pair["low"] <= pair["difference"] <= pair["high"]
    assert found["timings"]["clip"]["encoded"] == 48
    again = probe(configs, photos, seed=1)
    assert without_times(again) == without_times(found)
    assert again["timings"]["clip"]["encoded"] == 0
    assert without_times(probe(configs, photos, seed=2)) != without_times(found)


def test_every_layer_chooses_on_the_validation_pictures(photos: Path) -> None:
    found = probe({"clip": opened("clip", select_layer=[1, -1])}, photos, every_layer=True)
    (told,) = found["configs"]
    layers = told["every_layer"]
    assert [scores["layers"] for scores in layers] == [[layer] for layer in range(len(layers))]
    assert len(told["configured"]["layers"]) == 2
    best = max(scores["linear"]["validation"] for scores in layers)
    chosen = told["chosen"]
    assert chosen["linear"]["validation"] == best
    first = next(scores for scores in layers if scores["linear"]["validation"] == best)
    assert chosen["layers"] == first["layers"] or chosen["knn"]["validation"] > first["knn"]["validation"]
    assert "test" in chosen["linear"]
    assert all("test" not in scores["linear"] for scores in layers)
    alone = probe({"clip": opened("clip", select_layer=chosen["layers"][0])}, photos)
    assert alone["configs"][0]["configured"] == chosen
    assert told["layers_cka"]["layers"] == [*range(len(layers))]
    assert told["not_probed"] == {}


def test_near_duplicates_are_in_one_part_and_small_labels_are_left_out(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos", 14)
    for number in range(14):
        picture("apple", number).resize((144, 128)).save(root / "apple" / f"larger {number}.png")
    (root / "rare").mkdir()
    for number in range(6):
        picture("sea", 100 + number).save(root / "rare" / f"{number}.png")
    (root / "sea" / "broken.png").write_bytes(b"broken")
    data = probe({"clip": opened("clip")}, root)["data"]
    assert [data[key] for key in ("pictures", "groups", "labels")] == [56, 42, 3]
    assert data["left_out"] == {"labels": 1, "pictures": 6}
    assert data["rejected"] == {"a picture cannot be opened": 1}
    assert data["rejected_rows"][0]["where"].endswith("sea/broken.png")
    assert data["train"] + data["validation"] + data["test"] == 56


def test_too_little_data_is_told_before_a_weight_is_read(tmp_path: Path) -> None:
    config = {"clip": opened("clip")}
    with pytest.raises(ConfigError, match=r"all pictures of .* have one label \(folder\): 'apple'"):
        probe(config, folders(tmp_path / "one", 8, ("apple",)))
    (tmp_path / "one" / "captions.jsonl").write_text("{}")
    with pytest.raises(
        ConfigError, match=r"have one label .*Try: --data .*/one/captions\.jsonl, pictures of at least two"
    ):
        probe(config, tmp_path / "one")
    few = r"too few pictures of a label .*'leaf', the second of 2 labels, has 5 that.*Try: at least 7 of two labels"
    folder = folders(tmp_path / "few", 5, ("leaf",))
    folders(tmp_path / "more", 9, ("apple",)).joinpath("apple").rename(folder / "apple")
    with pytest.raises(ConfigError, match=few):
        probe(config, folder)
    with pytest.raises(ConfigError, match=r"10 of 14 pictures are for training, but 20 .*Try: at least 30 pictures"):
        probe(config, folders(tmp_path / "two", 7, ("apple", "sea")))


def test_towers_that_cannot_be_probed(photos: Path, vivit: Path) -> None:
    with pytest.raises(ConfigError, match="vita probe: it takes still pictures, but tower 'transformers' takes videos"):
        probe({"vivit": resolve({"tower": {"weights": str(vivit)}}, tower_only=True)}, photos)
    fused = {"towers": [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}]}
    with pytest.raises(ConfigError, match="no common layers"):
        probe({"both": resolve({"tower": fused}, tower_only=True)}, photos, every_layer=True)


def test_several_encoders_as_one_and_tokens_without_a_grid(photos: Path) -> None:
    fused = {"towers": [{"weights": str(GOLDEN / "clip")}, {"weights": str(GOLDEN / "siglip")}]}
    both = resolve({"tower": {**fused, "combine": "channel"}, "device": "cpu"}, tower_only=True)
    found = probe({"both": both, "cls": opened("clip", select_feature="cls")}, photos, limit=42)
    whole, cls = (told["configured"] for told in found["configs"])
    assert whole["hidden_size"] == both.tower.geometry.hidden_size
    assert whole["retrieval"] is not None
    assert (cls["retrieval"], cls["tokens"], cls["sinks"]) == (None, 1, 0)
    assert found["data"]["pictures"] <= 42
