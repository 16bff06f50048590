"""Checkpoints of VITA and LLaVA, opened: the original's answers, transformers' logits, and what must be refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config, rewrite, with_mixtral
from safetensors.torch import load_file

from vita_core import build_model, load_config
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.planning.resolution import resolve

SYSTEM = "You are a helpful assistant."
QUESTION = "Describe this images."


@pytest.mark.parametrize("name", ["wide", "tall", "square"])
def test_vita_answers_as_the_original(golden: Path, name: str) -> None:
    expected = json.loads((golden / "vita15" / "expected_answers.json").read_text())[name]
    model = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"])
    answer = model.ask(golden / "pictures" / f"{name}.png", QUESTION, system=SYSTEM, max_new_tokens=12)
    prompt = model.settings.prompt.model_copy(update={"system": SYSTEM})
    assert model.llm.prompt(prompt, QUESTION, [expected["tiles"]]) == expected["input_ids"]
    assert answer.tiles == [expected["tiles"]]
    assert answer.prompt_tokens == expected["sequence_length"]
    assert answer.token_ids == expected["generated_ids"]


def test_what_was_taken_and_skipped_is_told(golden: Path) -> None:
    notes = "\n".join(resolve(golden / "vita15").notes)
    assert "vision only: 2 audio tensors skipped" in notes
    assert "'../internvit', relative to the checkpoint" in notes
    assert "60 tensors of the checkpoint itself" in notes


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", ["full", "9"])
def test_the_old_merge_returns_what_vitas_does(golden: Path, vita15: Path, side: str, length: str) -> None:
    saved = load_file(golden / "vita15" / "expected_merge.safetensors")
    limit = None if length == "full" else int(length)
    edit_config(vita15, tokenizer_padding_side=side, tokenizer_model_max_length=limit)
    model = build_model(checkpoint=vita15, overrides=["device=cpu"])
    projected = model.encode_images(saved["pixel_values"])
    torch.testing.assert_close(projected, saved["projected"], atol=1e-5, rtol=0)
    positions = torch.arange(saved["input_ids"].shape[1])
    nothing, positions, mask, cache, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        saved["input_ids"], positions, saved["attention_mask"], None, saved["labels"], saved["pixel_values"]
    )
    assert nothing is None
    assert cache is None
    torch.testing.assert_close(embeds, saved[f"{side}.{length}.inputs_embeds"], atol=1e-5, rtol=0)
    assert torch.equal(labels, saved[f"{side}.{length}.labels"])
    assert torch.equal(mask, saved[f"{side}.{length}.attention_mask"])
    assert torch.equal(positions, saved[f"{side}.{length}.position_ids"])
    bare = model.prepare_inputs_labels_for_multimodal(saved["input_ids"], None, None, None, None, None)
    assert bare[0] is saved["input_ids"]
    with pytest.raises(VitaError, match="audio is not supported"):
        model.generate(saved["input_ids"], images=saved["pixel_values"], audios={})
    with pytest.raises(VitaError, match="3 pictures are given, but the prompts need 4"):
        model.generate(saved["input_ids"], images=saved["pixel_values"][:3], attention_mask=saved["attention_mask"])


def test_old_generate_answers_as_the_original(golden: Path) -> None:
    expected = json.loads((golden / "vita15" / "expected_answers.json").read_text())["wide"]
    model = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"])
    pixels = model.prepare(golden / "pictures" / "wide.png").pixels
    assert model.get_model().get_vision_tower() is model.get_vision_tower() is model.tower
    ids = torch.tensor([expected["input_ids"]])
    made = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=12)
    assert made[0].tolist() == expected["generated_ids"]
    as_the_demo = model.generate(
        ids, images=pixels, audios=None, do_sample=False, temperature=0.01, top_p=None, num_beams=1, output_scores=True,
        return_dict_in_generate=True, max_new_tokens=12, use_cache=True, stopping_criteria=[], shared_v_pid_stride=None,
    )  # fmt: skip
    assert as_the_demo.sequences.tolist() == made.tolist()
    with pytest.raises(VitaError, match="slow-fast"):
        model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, pixels, None, torch.ones(7))
    with pytest.raises(VitaError, match=r"shared_v_pid_stride: .* not supported: 8"):
        model.generate(ids, images=pixels, shared_v_pid_stride=8)


def test_the_tower_is_looked_for_in_order(
    vita15: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elsewhere = Path(shutil.copytree(tmp_path / "internvit", tmp_path / "else where.v1" / "internvit"))
    edit_config(vita15, mm_vision_tower=str(elsewhere))
    given = f"--tower-weights {tmp_path / 'internvit'}"
    assert given in resolve(vita15, tower_weights=str(tmp_path / "internvit")).notes[0]
    with pytest.raises(CheckpointError, match=r"--tower-weights: no such file or directory: internvitt"):
        resolve(vita15, tower_weights="./internvitt")
    with pytest.raises(CheckpointError, match=r"--tower-weights: no config\.json .* in "):
        resolve(vita15, tower_weights=str(tmp_path))
    assert "as it is" in resolve(vita15).notes[0]
    edit_config(vita15, mm_vision_tower="inside")
    shutil.copytree(elsewhere, vita15 / "inside")
    assert "relative to the checkpoint" in resolve(vita15).notes[0]
    edit_config(vita15, mm_vision_tower="/their/machine/internvit")
    assert "beside the checkpoint" in resolve(vita15).notes[0]
    edit_config(vita15, mm_vision_tower="/their/machine/eva-sig-clip")
    with pytest.raises(
        CheckpointError, match=r"its tower was not found: '/their/machine/eva-sig-clip'.*Try: pass --tower-weights"
    ):
        resolve(vita15)


def test_published_geometry_needs_no_tower_directory(vita15: Path) -> None:
    """Its name must be a known one exactly, not hold one."""
    edit_config(vita15, mm_vision_tower="/their/InternViT-300M-448px", mm_hidden_size=4096)
    opened = resolve(vita15, tower_only=True)  # whose width the projector of this small checkpoint does not fit
    assert "published geometry of OpenGVLab/InternViT-300M-448px" in opened.notes[0]
    assert opened.tower.geometry.hidden_size == 4096
    edit_config(vita15, mm_vision_tower="/their/my-InternViT-300M-448px")
    with pytest.raises(CheckpointError, match="its tower was not found"):
        resolve(vita15)


@pytest.mark.parametrize("name", ["with space", "dotted.v1.5", "trailing/", "link"])
def test_directories_of_any_name(vita15: Path, golden: Path, name: str) -> None:
    place = vita15.with_name(name.strip("/"))
    if name == "link":
        place.symlink_to(vita15)
    else:
        vita15.rename(place)
    model = build_model(checkpoint=f"{place}/" if name.endswith("/") else place, overrides=["device=cpu"])
    expected = json.loads((golden / "vita15" / "expected_answers.json").read_text())["square"]
    answer = model.ask(golden / "pictures" / "square.png", QUESTION, system=SYSTEM, max_new_tokens=12)
    assert answer.token_ids == expected["generated_ids"]


def test_questions_that_do_not_fit(golden: Path) -> None:
    model = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"])
    picture = golden / "pictures" / "wide.png"
    with pytest.raises(VitaError, match="at least one picture"):
        model.ask([], QUESTION)
    with pytest.raises(VitaError, match=r"<image> 1 times, but the number of pictures is 2"):
        model.ask([picture, picture], "<image> what is it?")
    with pytest.raises(VitaError, match=r"the prompt has \d+ tokens, .* context of 4096.*--max-tiles"):
        model.ask(picture, QUESTION, max_new_tokens=4090)


def test_max_tiles(golden: Path) -> None:
    opened = resolve(golden / "vita15", max_tiles=4, overrides=["device=cpu"])
    answer = build_model(opened).ask(golden / "pictures" / "tall.png", QUESTION, max_new_tokens=1)
    assert answer.tiles[0] <= 5


def test_tied_embeddings(vita15: Path) -> None:
    """Where they are tied, the head is not in the files, and nothing is missing."""
    rewrite(vita15, lambda state: {key: tensor for key, tensor in state.items() if key != "lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"1 missing \(lm_head\.weight\)"):
        build_model(checkpoint=vita15, overrides=["device=cpu"])
    edit_config(vita15, tie_word_embeddings=True)
    model = build_model(vita15, overrides=["device=cpu"]).llm.model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_directories_that_are_no_config(vita15: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a checkpoint of another project.*Try: `vita run .*`vita migrate"):
        load_config(vita15)
    (vita15 / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"neither a config\.yaml nor a config\.json: it holds chat_template\.jinja"):
        build_model(vita15)


def test_tower_weights_go_with_a_checkpoint(tiny_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tower-weights only applies to the directory.*`--set tower.weights=x`"):
        resolve(tiny_config, tower_weights="x")


def test_either_a_config_or_a_checkpoint(golden: Path) -> None:
    with pytest.raises(ConfigError, match="both config and checkpoint are given"):
        build_model({}, checkpoint=golden / "vita15")
    with pytest.raises(ConfigError, match="neither config nor checkpoint is given"):
        build_model()


def test_vita10_with_mixtral(vita15: Path) -> None:
    """VITA-1.0's layout: experts as published; the language model against transformers' own."""
    theirs = with_mixtral(vita15)
    model = build_model(checkpoint=vita15, overrides=["device=cpu"])
    assert model.settings.prompt.template == "mixtral_two"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(model.llm.model(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


MEASURE = """
import sys, threading, re
import transformers, vita_core.models.building
from vita_core import build_model

def anonymous():  # bytes of memory that no file backs
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

build_model(checkpoint=sys.argv[1], overrides=["device=cpu"])  # imports and pools, before the baseline
base, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

thread = threading.Thread(target=watch)
thread.start()
model = build_model(checkpoint=sys.argv[2], overrides=["device=cpu", "llm.dtype=float32"])
done.set()
thread.join()
print(peak - base, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own account")
@pytest.mark.parametrize(
    ("dtype", "most"), [pytest.param(torch.float32, 0.2, marks=pytest.mark.extras), (torch.float16, 1.2)]
)
def test_peak_memory(vita15: Path, golden: Path, dtype: torch.dtype, most: float) -> None:
    """In the dtype it was saved in, the checkpoint stays mapped to its files; in another, one copy is made."""
    width = 60_000
    shapes = {"gate_proj": (width, 32), "up_proj": (width, 32), "down_proj": (32, width)}

    def widened(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for layer in range(3):
            for name, shape in shapes.items():
                state[f"model.layers.{layer}.mlp.{name}.weight"] = torch.ones(shape)
        return {key: tensor.to(dtype) if "layers" in key else tensor for key, tensor in state.items()}

    rewrite(vita15, widened)
    edit_config(vita15, intermediate_size=width)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, golden / "vita15", vita15], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak, size = map(int, done.stdout.split())
    assert size > 60_000_000
    assert peak < most * size
