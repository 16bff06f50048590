"""The whole model on a tiny real checkpoint: the merge, batches, streaming, what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vita_core import build_model, load_config, make_plan
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.language.llm import PICTURE_ID
from vita_core.language.merging import merge
from vita_core.towers.devices import pick_device


def test_merge_is_the_originals(golden: Path) -> None:
    """VITA's own merge of a padded batch with two, one and no pictures per row, both padding sides."""
    saved = load_file(golden / "vita15" / "expected_merge.safetensors")
    table = load_file(golden / "vita15" / "embed_tokens.safetensors")["embed_tokens"]
    prompts, pictures, used = [], [], 0
    for row, mask in zip(saved["input_ids"], saved["attention_mask"], strict=True):
        ids = row[mask].tolist()
        count = ids.count(PICTURE_ID)
        prompts.append(ids)
        pictures.append(list(saved["projected"][used : used + count]))
        used += max(count, 1)  # VITA sends a blank picture for a row without one
    for side in ("left", "right"):
        embeds, mask = merge(prompts, pictures, lambda ids: table[ids], padding=side)
        torch.testing.assert_close(embeds, saved[f"{side}.full.inputs_embeds"], atol=1e-5, rtol=0)
        assert torch.equal(mask.bool(), saved[f"{side}.full.attention_mask"])


def test_ask_streams_and_batches_alike(tiny_config: Path, golden: Path) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config)
    pictures = [golden / "pictures" / f"{name}.png" for name in ("wide", "tall", "square")]
    pieces: list[str] = []
    one = model.ask(pictures[0], "what is this ?", on_text=pieces.append)
    assert "".join(pieces).strip() == one.text
    assert (one.tower, one.tiles, one.visual_tokens) == ("clip", [1], 16)
    assert one.prompt_tokens == 16 + len(model.llm.prompt(model.settings.prompt, "what is this ?", 1)) - 1
    assert set(one.timings) == {"pictures", "tower", "generate", "first_token", "total"}
    each = model.ask_each(pictures, "what is this ?")
    assert [answer.token_ids for answer in each] == [model.ask(p, "what is this ?").token_ids for p in pictures]
    two = model.ask(pictures[:2], "what is this ?")
    assert two.visual_tokens == 32


def test_generation_is_the_language_models_own(tiny_config: Path, golden: Path) -> None:
    """The same embeddings driven by hand give the same tokens."""
    torch.manual_seed(0)
    model = build_model(tiny_config)
    picture = golden / "pictures" / "wide.png"
    answer = model.ask(picture, "what is this ?")
    ids = model.llm.prompt(model.settings.prompt, "what is this ?", 1)
    with torch.no_grad():
        visual = model.encode_images(model.prepare(picture).pixels).flatten(0, 1)
        embeds, _ = merge([ids], [[visual]], model.llm.embed)
        tokens: list[int] = []
        for _ in range(5):
            following = int(model.llm.model(inputs_embeds=embeds).logits[0, -1].argmax())
            if following == model.llm.stop_id:
                break
            tokens.append(following)
            embeds = torch.cat([embeds, model.llm.embed(torch.tensor([[following]]))], dim=1)
    assert answer.token_ids == tokens


def test_tiles(tiny_config: Path, golden: Path) -> None:
    model = build_model(load_config(tiny_config, ["images.tiles={max: 6, thumbnail: true}"]))
    answer = model.ask(golden / "pictures" / "wide.png", "what is this ?")
    assert answer.tiles[0] > 2
    assert answer.visual_tokens == answer.tiles[0] * 16


def test_pictures_and_places_must_match(tiny_config: Path, golden: Path) -> None:
    model = build_model(tiny_config)
    picture = golden / "pictures" / "wide.png"
    with pytest.raises(VitaError, match=r"<image> 1 times, but the number of pictures is 2"):
        model.ask([picture, picture], "<image> what is this ?")
    with pytest.raises(VitaError, match="context of 256"):
        model.ask([picture] * 16, "what is this ?")


def test_widths_are_compared_before_weights_are_read(tiny_config: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    save_file({"0.weight": torch.zeros(24, 99)}, file, metadata={"in_features": "99", "out_features": "24"})
    with pytest.raises(CheckpointError, match=r"trained for a tower of 99 channels, but this one gives 32"):
        build_model(load_config(tiny_config, [f"projector.weights={file}"]))
    with pytest.raises(ConfigError, match="tower gives 32 channels and the language model takes 24"):
        build_model(load_config(tiny_config, ["projector.type=identity"]))


def test_a_chat_template_that_refuses_a_system_text_is_told(
    tiny_config: Path, tiny_llm: Path, tmp_path: Path, golden: Path
) -> None:
    """As those of Mistral and Gemma do."""
    strict = Path(shutil.copytree(tiny_llm, tmp_path / "strict"))
    template = strict / "chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('Only user roles!') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    model = build_model(load_config(tiny_config, [f"llm.weights={strict}"]))
    picture = golden / "pictures" / "wide.png"
    assert model.ask(picture, "what is this ?").prompt_tokens > 16
    with pytest.raises(
        ConfigError, match=r"does not accept the prompt: Only user roles!. Try: leave out prompt.system \(--system\)"
    ):
        model.ask(picture, "what is this ?", system="a cat")


def test_no_chat_template_says_what_to_do(tiny_config: Path, tiny_llm: Path, tmp_path: Path, golden: Path) -> None:

    bare = tmp_path / "bare"
    shutil.copytree(tiny_llm, bare)
    (bare / "chat_template.jinja").unlink()
    model = build_model(load_config(tiny_config, [f"llm.weights={bare}"]))
    with pytest.raises(ConfigError, match=r"prompt\.template: plain"):
        model.ask(golden / "pictures" / "wide.png", "what is this ?")


@pytest.mark.parametrize("projector", ["linear", "mlp2x_gelu", "mlp3x_gelu"])
@pytest.mark.parametrize("options", [{}, {"input_norm": True, "hidden_size": 8}])
def test_plan_counts_what_is_built(tiny_config: Path, projector: str, options: dict[str, object]) -> None:
    config = load_config(tiny_config, [f"projector.type={projector}", f"projector.options={json.dumps(options)}"])
    model, plan = build_model(config), make_plan(config)
    counted = [sum(p.numel() for p in part.parameters()) for part in (model.tower, model.projector, model.llm)]
    assert [stage.parameters for stage in plan.stages[1:]] == counted
    assert plan.stages[2].shape[-1] == model.llm.hidden_size


def test_the_automatic_device_can_be_used() -> None:
    """torch names the accelerator it was built for, whether the machine has one or not."""
    assert torch.zeros(1, device=pick_device("auto")).sum() == 0


def test_code_of_a_checkpoint_is_refused(tiny_config: Path, tiny_llm: Path, tmp_path: Path) -> None:

    own = shutil.copytree(tiny_llm, tmp_path / "own")
    config = json.loads((own / "config.json").read_text())
    changes = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Mine", "AutoConfig": "mine.Config"}}
    (own / "config.json").write_text(json.dumps({**config, **changes}))
    (own / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(CheckpointError, match=r"not allowed to run.*trust_remote_code: true.*llm\.revision: COMMIT"):
        build_model(load_config(tiny_config, [f"llm.weights={own}"]))
    assert not (tmp_path / "ran").exists()
