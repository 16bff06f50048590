"""Multimodal checkpoints that transformers saves: the greedy answers of its own classes, token by token."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import multimodal
import pytest
import yaml
from multimodal import LIMIT, QUESTION, Theirs

from vita_core import build_model
from vita_core.errors import ConfigError, VitaError
from vita_core.pixels.images import open_picture
from vita_core.planning.migrating import migrate
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import resolve
from vita_core.testing.loading import init_touches_no_weights, loads
from vita_core.testing.subject import open_subject

NORMED = {"use_mean_pooling": False, "use_qk_norm": True, "attention_bias": True, "norm_type": "rms_norm"}
KINDS = {
    "onevision": multimodal.onevision,
    "onevision, scaled down": partial(multimodal.onevision, vision_aspect_ratio="anyres_max_2"),
    "onevision, two layers": partial(multimodal.onevision, vision_feature_layer=[-2, -1]),
    "vipllava": multimodal.vipllava,
    "vipllava, one layer": partial(multimodal.vipllava, vision_feature_layer=-2, projector_layernorm_eps=0.3),
    "pixtral": multimodal.pixtral,
    "pixtral, two layers": partial(multimodal.pixtral, vision_feature_layer=[-1, 1]),
    "internvl": multimodal.internvl,
    "internvl, normed": partial(multimodal.internvl, vision=NORMED, tie_word_embeddings=False),
    "internvl, one tile": partial(multimodal.internvl, tiles=1, vision_feature_layer=-2),
}


@pytest.fixture(scope="module", params=KINDS)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return KINDS[request.param](tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def model(theirs: Theirs) -> Any:
    return build_model(checkpoint=theirs.folder, overrides=["device=cpu"])


@pytest.fixture(scope="module")
def photos(golden: Path) -> list[Any]:
    """Real photos: wide, tall and square, and the same at other sizes and aspects."""
    wide, tall, square = (open_picture(golden / "pictures" / f"{name}.png") for name in ("wide", "tall", "square"))
    return [wide, tall, square, wide.crop((0, 0, 97, 20)), wide.resize((200, 190)), tall.resize((9, 30))]


def test_answers(model: Any, theirs: Theirs, photos: list[Any]) -> None:
    found = []
    for photo in photos:
        answer = model.ask(photo, QUESTION, max_new_tokens=LIMIT)
        assert answer.token_ids == theirs.answers([[photo]])[0]
        assert answer.visual_tokens == make_plan(resolve(theirs.folder), picture=photo.size).tokens
        found.append(tuple(answer.token_ids))
    assert len(set(found)) > 2, "the answers do not depend on the picture"


def test_batches(model: Any, theirs: Theirs, photos: list[Any]) -> None:
    expected = theirs.answers([[photo] for photo in photos])
    assert [answer.token_ids for answer in model.ask_each(photos, QUESTION, max_new_tokens=LIMIT)] == expected


def test_several_pictures(model: Any, theirs: Theirs, photos: list[Any]) -> None:
    for row in (photos[:2], photos[1:3], photos[:3]):
        assert model.ask(row, QUESTION, max_new_tokens=LIMIT).token_ids == theirs.answers([row])[0]


def test_the_plan_is_what_is_built(model: Any, theirs: Theirs) -> None:
    plan = make_plan(resolve(theirs.folder))
    _, tower, projector, llm = plan.stages
    assert tower.shape == (plan.tiles, model.tower.num_tokens, model.tower.hidden_size)
    for stage, module in ((tower, model.tower), (projector, model.projector), (llm, model.llm)):
        assert stage.parameters == sum(parameter.numel() for parameter in module.parameters())


def test_the_migrated_config_gives_the_same_answers(
    model: Any, theirs: Theirs, photos: list[Any], tmp_path: Path
) -> None:
    migration = migrate(theirs.folder)
    (tmp_path / "migrated.yaml").write_text(migration.text)
    opened = build_model(tmp_path / "migrated.yaml", overrides=["device=cpu"])
    assert opened.settings.images == model.settings.images
    assert opened.ask(photos[0], QUESTION, max_new_tokens=LIMIT).token_ids == theirs.answers([photos[:1]])[0]
    assert "prompt.image_token" in " ".join(ours for _, _, ours in migration.became)


def test_a_saved_model_gives_the_same_answers(model: Any, theirs: Theirs, photos: list[Any], tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    opened = build_model(tmp_path / "saved", overrides=["device=cpu"])
    for row in (photos[:1], photos[:2]):
        assert opened.ask(row, QUESTION, max_new_tokens=LIMIT).token_ids == theirs.answers([row])[0]


def test_the_conformance_kit_takes_the_tower(theirs: Theirs) -> None:
    with open_subject(str(theirs.folder)) as subject:
        results = [check.run(subject) for check in (init_touches_no_weights, loads)]
    assert [result.outcome for result in results] == ["ok", "ok"], [result.seen for result in results]


@pytest.mark.parametrize(
    ("made", "stated"),
    [
        ({"vision": {"attention_bias": True}}, {}),
        ({"vision": {"norm_type": "rms_norm", "use_qk_norm": True}}, {}),
        ({"vision": {"attention_bias": True}, "vision_feature_layer": -2}, {"select_layer": -2}),
        ({"vision": {"attention_bias": True}, "tiles": 1}, {"dynamic_image_size": False}),
        ({"vision": {"attention_bias": True}, "tiles": 3, "tie_word_embeddings": False}, {"max_dynamic_patch": 3}),
    ],
)
def test_internvl_as_its_authors_publish_it(
    tmp_path: Path, photos: list[Any], made: dict[str, Any], stated: dict[str, Any]
) -> None:
    """Features without VITA's factor of 0.5, the tiles of config.json, and no code of the repository."""
    theirs = multimodal.internvl(tmp_path / "hf", **made)
    place = multimodal.original_internvl(theirs, tmp_path / "original", **stated)
    model = build_model(checkpoint=place, overrides=["device=cpu"])
    assert model.settings.prompt.template == "internvl2_5"
    for row in ([photos[0]], [photos[1]], [photos[4]], photos[:2]):
        expected = theirs.answers([row])[0]
        question = QUESTION if len(row) == 1 else f"<image>\n<image>\n{QUESTION}"
        assert model.ask(row, question, max_new_tokens=LIMIT).token_ids == expected


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl"])
def test_the_tower_of_another_model_opens_alone(tmp_path: Path, kind: str) -> None:
    """The directory is planned and encoded as a tower; a question about a picture shows the lines of its config."""
    getattr(multimodal, kind)(tmp_path)
    found = resolve(tmp_path, ["tower.select_layer=1"], tower_only=True)
    assert (found.tower.spec.name, found.tower.geometry.layers) == ("transformers", (1,))
    assert [stage.stage for stage in make_plan(resolve(tmp_path)).stages] == ["picture", "tower"]
    with pytest.raises(ConfigError, match=rf"not run as a whole model: model_type '{kind}'. Its tower opens") as raised:
        build_model(tmp_path)
    lines = str(raised.value).splitlines()[1:]
    assert len(lines) == 3
    config = yaml.safe_load("\n".join(lines))
    assert resolve(config).tower.shape == resolve(tmp_path).tower.shape
    with pytest.raises(ConfigError, match="--tower-weights only applies"):
        resolve(tmp_path, tower_weights="./other")


def test_a_model_of_texts_is_no_tower(tiny_llm: Path) -> None:
    with pytest.raises(VitaError, match=r"model_type 'llama' has no vision encoder"):
        resolve(tiny_llm)
