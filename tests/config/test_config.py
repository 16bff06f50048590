"""Every config mistake is told with its place; every shipped config validates and plans without weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vita_core import list_towers, load_config, make_plan, register
from vita_core.config.configfiles import shipped_configs
from vita_core.config.schema import Config
from vita_core.config.validation import validate
from vita_core.errors import ConfigError, VitaError
from vita_core.plugins.registry import use_plugins

GOOD = "tower: {weights: ./w}\nllm: {weights: owner/name}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1:1: the file is empty"),
        ("- a\n", r":1:1: not a mapping of keys: a list"),
        ("llm: {weights: a/b}\n", r"required key is missing: 'tower'\. Try: add 'tower'"),
        (GOOD + "tower: {weights: ./x}\n", r":3:1: duplicate key: 'tower', first at .*:1:1"),
        (
            "tower:\n  weights: ./w\n  selct_layer: 1\nllm: {weights: a/b}\n",
            r":3:3: unknown key: 'selct_layer' in section 'tower'. Did you mean 'select_layer'\? Try: one of type, ",
        ),
        (
            "tower:\n  weights: ./w\n  select_layer: one\nllm: {weights: a/b}\n",
            r":3:3: tower.select_layer: wrong value: 'one'. Try: an integer or a list",
        ),
        (
            "tower:\n  weights: ./w\n  compile: 3\nllm: {weights: a/b}\n",
            r":3:3: tower.compile: wrong value: 3. Try: true or false",
        ),
        (GOOD + "device: [\n", r":4:1: not valid YAML"),
        (
            GOOD + "generation: {temperature: .inf}\n",
            r":3:14: generation.temperature: wrong value: inf. Try: a finite number",
        ),
        (GOOD + "images: {tiles: {min: 5, max: 3}}\n", r":3:10: images.tiles: min is larger than max: 5 > 3"),
        (
            GOOD + "images: {tiles: {max: 3}, anyres: {grids: [[1, 2]]}}\n",
            r":3:1: images: tiles and anyres exclude each other. Try: `tiles: null`",
        ),
        (
            GOOD + f"training: {{seed: {'9' * 4000}x}}\n",
            r"training.seed: wrong value: '9{10,15}\.\.\.9{10,15}x'. Try: an integer$",
        ),
        (GOOD + "extends: nowhere.yaml\n", r":3:1: extends: no such file: 'nowhere.yaml'"),
    ],
)
def test_mistakes_have_a_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file)
    assert str(error.value).startswith(str(file))


def test_numbers_and_words_are_yaml_1_2(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD + "training: {learning_rate: 1e-4}\nprompt: {question: on}\n")
    config = load_config(file)
    assert config.training.learning_rate == 1e-4
    assert config.prompt.question == "on"


def test_extends_and_paths_are_relative_to_their_own_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.yaml").write_text(
        "tower: {weights: ./tower, select_layer: -2}\nllm: {weights: owner/name}\n"
    )
    (tmp_path / "c.yaml").write_text("extends: deep/base.yaml\ntower: {select_layer: -1}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.tower.weights == str(tmp_path / "deep" / "tower")
    assert config.tower.select_layer == -1
    assert config.llm.weights == "owner/name"


@pytest.mark.parametrize("scale", ["0", "-1", "1e308"])
def test_a_scale_that_leaves_no_features(scale: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"tower.feature_scale: .* (greater|less) than"):
        load_config(tmp_path / "c.yaml", [f"tower.feature_scale={scale}"])


def test_one_encoder_replaces_several_and_several_replace_one(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("tower: {pool: 1, towers: [{weights: a/a}, {weights: b/b}]}\n")
    (tmp_path / "one.yaml").write_text("extends: two.yaml\ntower: {weights: c/c}\ndevice: cpu\n")
    (tmp_path / "again.yaml").write_text("extends: one.yaml\ntower: {towers: [{weights: a/a}, {weights: c/c}]}\n")
    one, again = load_config(tmp_path / "one.yaml"), load_config(tmp_path / "again.yaml")
    assert (one.tower.weights, one.tower.towers, one.tower.pool) == ("c/c", None, None)
    assert [part.weights for part in again.tower.towers or ()] == ["a/a", "c/c"]
    assert again.device == "cpu"
    assert load_config(tmp_path / "two.yaml", ["tower={weights: c/c}"]).tower == one.tower
    (tmp_path / "data.yaml").write_text("extends: two.yaml\ndata: {weights: {path: a}, more: {path: b}}\n")
    (tmp_path / "more.yaml").write_text("extends: data.yaml\ndata: {towers: {path: c}}\n")
    assert set(load_config(tmp_path / "more.yaml").data) == {"weights", "more", "towers"}
    with pytest.raises(
        ConfigError, match=r"tower.weights: .* Try: .* for one encoder alone, `--set 'tower=\{weights: DIR\}'`"
    ):
        load_config(tmp_path / "two.yaml", ["tower.weights=c/c"])


def test_extends_names_a_shipped_config_unless_there_is_such_a_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for name in shipped_configs():
        file.write_text(f"extends: {name}\ngeneration: {{max_new_tokens: 7}}\n")
        assert load_config(file) == load_config(name, ["generation.max_new_tokens=7"])
    (tmp_path / "quickstart").write_text(GOOD)
    file.write_text("extends: quickstart\n")
    assert load_config(file) == load_config(tmp_path / "quickstart")
    file.write_text("extends: recipes/llava-1.6\n")
    with pytest.raises(ConfigError, match=r"Did you mean 'recipes/llava-1.5'\? Try: .* or a shipped config: "):
        load_config(file)


def test_extends_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(tmp_path / "a.yaml")


def test_set_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    config = load_config("c.yaml", ["tower.select_layer=[1, 2]", "tower.weights=./other", "images.tiles.max=4"])
    assert config.tower.select_layer == [1, 2]
    assert config.tower.weights == str(tmp_path / "other")
    assert config.images.tiles is not None
    assert config.images.tiles.max == 4
    with pytest.raises(ConfigError, match=r"--set tower.selct:1:1: unknown key: 'selct'"):
        load_config("c.yaml", ["tower.selct=1"])
    with pytest.raises(ConfigError, match=r"key.key=value"):
        load_config("c.yaml", ["tower"])


def test_unknown_config_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        load_config("quickstrat")


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name != "quickstart"])
def test_shipped_configs_plan_without_weights_or_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    plan = make_plan(load_config(name))
    assert plan.tokens == plan.tiles * plan.stages[1].shape[1]
    assert plan.parameters == sum(stage.parameters for stage in plan.stages)
    assert all(stage.flops > 0 for stage in plan.stages[1:])


# tokens and widths as VITA, LLaVA and the S2 paper publish them
@pytest.mark.parametrize(
    ("name", "tokens", "width"),
    [
        ("internvit-qwen2.5-7b", 13 * 256, 4096),
        ("siglip-s2-qwen2.5-7b", 729, 3456),
        ("clip-vicuna-7b", 576, 1024),
        ("eva-clip-mistral-7b", 576, 1024),
    ],
)
def test_published_sizes(name: str, tokens: int, width: int) -> None:
    plan = make_plan(load_config(name))
    assert (plan.tokens, plan.stages[1].shape[2]) == (tokens, width)


@pytest.mark.parametrize(
    ("name", "billions"), [("clip-vicuna-7b", 6.738), ("eva-clip-mistral-7b", 7.242), ("siglip-s2-qwen2.5-7b", 7.616)]
)
def test_language_models_have_their_published_size(name: str, billions: float) -> None:
    assert make_plan(load_config(name)).stages[3].parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_plan_refuses_what_run_refuses(tiny_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"projector.options: unknown key: 'hiden_size'. Did you mean 'hidden_size'"):
        make_plan(load_config(tiny_config, ["projector.options.hiden_size=8"]))
    with pytest.raises(ConfigError, match=r"projector.options: hidden_size: wrong value: 'wide'"):
        make_plan(load_config(tiny_config, ["projector.options.hidden_size=wide"]))
    with pytest.raises(ConfigError, match=r"projector 'identity' takes no options: x"):
        make_plan(load_config(tiny_config, ["projector.type=identity", "projector.options.x=1"]))


def test_plan_tells_a_projector_of_another_width(tiny_config: Path, tmp_path: Path) -> None:
    """Both numbers, without torch or a weight; and what `identity` refuses, and a file that is not there."""
    from safetensors.numpy import save_file

    with pytest.raises(ConfigError, match=r"tower gives 32 channels and the language model takes 24"):
        make_plan(load_config(tiny_config, ["projector.type=identity"]))
    file = tmp_path / "projector.safetensors"
    named = load_config(tiny_config, [f"projector.weights={file}"])
    with pytest.raises(VitaError, match=r"projector.weights: no such file"):
        make_plan(named)
    for widths, message in (
        ({"in_features": "64"}, "trained for a tower of 64 channels, but this one gives 32"),
        (
            {"in_features": "32", "out_features": "9"},
            "trained for a language model of 9 channels, but this one takes 24",
        ),
    ):
        save_file({}, file, metadata=widths)
        with pytest.raises(VitaError, match=message):
            make_plan(named)
    file.write_text("nothing")
    with pytest.raises(VitaError, match="truncated or not a safetensors file"):
        make_plan(named)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_attention_heads": 0}, "config.json: num_attention_heads: 0 is not a whole number from 1 to "),
        ({"hidden_size": "x"}, "config.json: hidden_size: 'x' is not a whole number"),
        ({"vocab_size": None}, "llm.weights: .*a config.json that the plan cannot read"),
        ({"num_hidden_layers": [2]}, "llm.weights: .*a config.json that the plan cannot read"),
    ],
)
def test_plan_tells_a_language_model_it_cannot_size(
    tiny_config: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    config = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = load_config(tiny_config, [f"llm.weights={tmp_path}"])
    assert make_plan(settings).stages[3].shape[-1] == 24
    (tmp_path / "config.json").write_text(json.dumps(config | wrong))
    with pytest.raises(VitaError, match=message):
        make_plan(settings)


def test_trust_is_given_only_to_a_tower_that_runs_remote_code(tiny_config: Path) -> None:
    trusting = load_config(tiny_config, ["tower.trust_remote_code=true"])
    with pytest.raises(ConfigError, match="tower 'clip' runs no code from a checkpoint's repository"):
        make_plan(trusting)
    clip = next(spec for spec in list_towers() if spec.name == "clip")
    use_plugins()  # a fresh registry
    register(replace(clip, name="remote_clip", remote_code=True))
    try:
        assert make_plan(
            trusting.model_copy(update={"tower": trusting.tower.model_copy(update={"type": "remote_clip"})})
        )
    finally:
        use_plugins()


@pytest.mark.parametrize(("wrong", "right"), [("CLIP", "clip"), ("InternViT", "internvit"), ("SigLIP2", "siglip")])
def test_a_name_in_capitals_is_recognised(tiny_config: Path, wrong: str, right: str) -> None:
    with pytest.raises(VitaError, match=f"unknown tower: '{wrong}'. Did you mean '{right}'"):
        make_plan(load_config(tiny_config, [f"tower.type={wrong}"]))


def test_a_section_of_the_wrong_kind_is_placed(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tower:\n  weights: ./w\n  freeze:\n    from_layr: 2\nllm: {weights: a/b}\n")
    with pytest.raises(ConfigError) as error:
        load_config(file)
    required, unknown = str(error.value).splitlines()
    assert (
        required
        == f"{file}:3:3: required key is missing: 'tower.freeze.from_layer'. Try: add 'from_layer' to section 'tower.freeze'"
    )
    assert unknown.startswith(
        f"{file}:4:5: unknown key: 'from_layr' in section 'tower.freeze'. Did you mean 'from_layer'"
    )


def test_plan_says_which_rule_chose_the_tower(tiny_config: Path) -> None:
    plan = make_plan(tiny_config)
    assert plan.rule == "model_type 'clip_vision_model' in its config.json"
    assert make_plan(load_config(tiny_config, ["tower.type=clip"])).rule == "explicit `type: clip`"


def test_a_misspelled_tower_is_told_with_the_nearest(tiny_config: Path) -> None:
    with pytest.raises(VitaError, match=r"unknown tower: 'clp'. Did you mean 'clip'\? Try: one of clip, eva_clip"):
        make_plan(load_config(tiny_config, ["tower.type=clp"]))


@pytest.mark.parametrize("section", ["tower", "llm"])
def test_a_models_own_config_cannot_allow_its_code(section: str, tmp_path: Path) -> None:
    """Whoever made a downloaded model wrote its config.yaml; only the user may allow its code to run."""
    sections = {"tower": {"weights": "./tower"}, "llm": {"weights": "./llm"}}
    sections[section]["trust_remote_code"] = True
    (tmp_path / "config.yaml").write_text(json.dumps(sections))
    with pytest.raises(
        VitaError, match=rf"config\.yaml:1:\d+: {section}\.trust_remote_code: .*cannot allow the model's code"
    ):
        load_config(tmp_path)
    with pytest.raises(VitaError, match="cannot allow the model's code"):
        load_config(tmp_path, [f"{section}.dtype=float32"])
    assert getattr(load_config(tmp_path, [f"{section}.trust_remote_code=true"]), section).trust_remote_code
    assert getattr(load_config(tmp_path / "config.yaml"), section).trust_remote_code  # a file that the user names


def test_an_unknown_key_that_looks_like_a_tag_of_pydantic_is_told() -> None:
    for key in ("(", "(flag)"):
        with pytest.raises(ConfigError, match=rf"unknown key: '{re.escape(key)}'"):
            validate(Config, {"tower": {"weights": "./a"}, key: []})
