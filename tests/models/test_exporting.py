"""`vita export`: VITA's layout written back, with its keys, and nothing changed but what the model changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import llava
import pytest
import torch
from checkpoints import all_tensors, edit_config, rewrite, with_mixtral
from conftest import vita
from safetensors.torch import load_file, save_file

from vita_core import build_model
from vita_core.errors import CheckpointError, VitaError
from vita_core.models.saving import saved_from
from vita_core.planning.migrating import migrate

SYSTEM = "You are a helpful assistant."
QUESTION = "Describe this images."
CPU = ["device=cpu"]


def vision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in state.items() if "audio_encoder" not in key}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Keys of tensors that are not bit for bit those of `expected`, which has the same keys."""
    assert found.keys() == expected.keys()
    return [k for k, t in expected.items() if t.dtype != found[k].dtype or not torch.equal(t, found[k])]


@pytest.mark.slow
def test_export_as_typed(golden: Path, vita15: Path) -> None:
    done = vita("export", vita15, "--layout", "vita")
    assert done.returncode == 0, done.stderr
    out = vita15.with_name("vita15-vita")
    assert "103 tensors unchanged, 0 changed" in done.stdout
    assert "vision only: 2 audio tensors skipped (use --audio to copy them)" in done.stdout
    assert "copied: chat_template.jinja, config.json," in done.stdout
    assert same(all_tensors(out), vision(all_tensors(vita15))) == []
    assert (out / "config.json").read_bytes() == (vita15 / "config.json").read_bytes()
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == vision(json.loads((vita15 / "model.safetensors.index.json").read_text())["weight_map"])
    assert (out / "model-00001-of-00002.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    expected = json.loads((golden / "vita15" / "expected_answers.json").read_text())["wide"]["generated_ids"]
    asked = ["--image", golden / "pictures" / "wide.png", "--question", QUESTION, "--system", SYSTEM]
    answer = vita("run", out, *asked, "--max-new-tokens", 12, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["token_ids"] == expected
    again = vita("export", f"{vita15}/", "--layout", "vita")
    assert again.returncode == 2
    assert f"already exists: {vita15}-vita. " in again.stderr
    assert [path.name for path in vita15.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_with_the_audio_half_and_elsewhere(vita15: Path, tmp_path: Path) -> None:
    done = vita("export", vita15, "--layout", "vita", "--out", tmp_path / "far" / "away", "--audio", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["unchanged"], told["changed"], told["copied"], told["audio"], told["audio_skipped"]) == (
        103,
        0,
        0,
        2,
        0,
    )
    out = tmp_path / "far" / "away"
    assert told["out"] == str(out)
    assert same(all_tensors(out), all_tensors(vita15)) == []
    assert "mm_vision_tower '../internvit' was relative" in told["notes"][0]
    assert json.loads((out / "config.json").read_text())["mm_vision_tower"] == str((tmp_path / "internvit").resolve())
    build_model(checkpoint=out, overrides=CPU)


def test_another_dtype_changes_nothing_and_changes_are_written(vita15: Path, tmp_path: Path) -> None:
    model = build_model(checkpoint=vita15, overrides=[*CPU, "llm.dtype=bfloat16", "tower.dtype=float16"])
    model.export(tmp_path / "same")
    assert same(all_tensors(tmp_path / "same"), vision(all_tensors(vita15))) == []
    with torch.no_grad():
        model.projector[0].bias.add_(1)
        model.tower.encoder.encoder.layer[1].attention.k_proj.weight.mul_(2)  # a third of the published qkv
    told = model.export(tmp_path / "changed")
    assert told.changed == 2
    found, source = all_tensors(tmp_path / "changed"), vision(all_tensors(vita15))
    qkv = "model.vision_tower.vision_tower.encoder.layers.1.attn.qkv.weight"
    assert sorted(same(found, source)) == ["model.mm_projector.0.bias", qkv]
    halves = source[qkv].half().float()
    assert torch.equal(found[qkv][32:64], 2 * halves[32:64])
    assert torch.equal(found[qkv][:32], halves[:32])


@pytest.mark.slow
def test_blocks_that_were_not_loaded_come_from_the_source(vita15: Path, golden: Path, tmp_path: Path) -> None:
    """Also after the model was saved, and the checkpoint moved."""
    edit_config(vita15, mm_vision_select_layer=-2)
    model = build_model(checkpoint=vita15, overrides=CPU)
    assert len(model.tower.encoder.encoder.layer) == 3
    with torch.no_grad():
        model.projector[2].bias.add_(1)
    model.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text())["sources"]
    assert record["checkpoint"]["layout"] == "VITA"
    assert set(record["checkpoint"]["files"]) == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    assert record["tower"]["files"] == {}  # the checkpoint's own were read, not those of ../internvit
    done = vita("export", tmp_path / "saved", "--layout", "vita", "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["changed"], told["copied"]) == (1, 14)
    source = vision(all_tensors(vita15))
    assert same(all_tensors(tmp_path / "out"), source) == ["model.mm_projector.2.bias"]
    again = build_model(checkpoint=tmp_path / "out", overrides=CPU)
    picture = golden / "pictures" / "wide.png"
    assert (
        again.ask(picture, QUESTION, max_new_tokens=5).token_ids
        == model.ask(picture, QUESTION, max_new_tokens=5).token_ids
    )
    moved = vita15.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"does not exist: .*`--source DIR`"):
        saved_from(tmp_path / "saved")
    build_model(tmp_path / "saved").export(tmp_path / "out2", source=saved_from(tmp_path / "saved", moved))
    assert same(all_tensors(tmp_path / "out2"), all_tensors(tmp_path / "out")) == []
    rewrite(moved, lambda state: {**state, "model.norm.weight": state["model.norm.weight"] + 1})
    with pytest.raises(CheckpointError, match="saved from another checkpoint than"):
        saved_from(tmp_path / "saved", moved)


@pytest.mark.slow
def test_a_projector_trained_on_a_migrated_config(vita15: Path, tmp_path: Path) -> None:
    file, weights = tmp_path / "trained.yaml", tmp_path / "projector.safetensors"
    file.write_text(migrate(vita15).text)
    trained = {
        key: value.half() for key, value in build_model(checkpoint=vita15, overrides=CPU).projector.state_dict().items()
    }
    save_file({**trained, "0.bias": torch.ones(32).half()}, weights)
    done = vita("export", file, "--layout", "vita", "--set", f"projector.weights={weights}")
    assert done.returncode == 0, done.stderr
    found = all_tensors(tmp_path / "trained-vita")
    assert torch.equal(found["model.mm_projector.0.bias"], torch.ones(32))
    changed = same(found, vision(all_tensors(vita15)))
    assert {key.rpartition(".")[0].rpartition(".")[0] for key in changed} == {"model.mm_projector"}


def test_experts_are_written_as_published(vita15: Path, tmp_path: Path) -> None:
    with_mixtral(vita15)
    told = build_model(checkpoint=vita15, overrides=CPU).export(tmp_path / "out")
    assert told.changed == 0
    assert told.weights == ["model.safetensors"]
    assert same(all_tensors(tmp_path / "out"), vision(all_tensors(vita15))) == []


def test_pickled_shards_become_safetensors(vita15: Path, tmp_path: Path) -> None:
    """With tied embeddings under both keys, as training saves them, and the projector in a file of its own."""
    state = all_tensors(vita15)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    edit_config(vita15, tie_word_embeddings=True)
    for file in vita15.glob("model*"):
        file.unlink()
    projector = {key: state.pop(key) for key in list(state) if "mm_projector" in key}
    torch.save(projector, vita15 / "mm_projector.bin")
    torch.save(state, vita15 / "pytorch_model.bin")
    told = build_model(checkpoint=vita15, overrides=CPU).export(tmp_path / "out")
    assert told.weights == ["model.safetensors", "mm_projector.bin"]
    assert same(load_file(tmp_path / "out" / "model.safetensors"), vision(state)) == []
    assert same(torch.load(tmp_path / "out" / "mm_projector.bin", weights_only=True), projector) == []
    build_model(checkpoint=tmp_path / "out", overrides=CPU)


def test_a_tower_outside_stays_there_if_it_was_not_changed(vita15: Path, tmp_path: Path) -> None:
    rewrite(vita15, lambda state: {key: tensor for key, tensor in state.items() if "vision_tower" not in key})
    model = build_model(checkpoint=vita15, overrides=CPU)
    model.export(tmp_path / "out")
    assert same(all_tensors(tmp_path / "out"), vision(all_tensors(vita15))) == []
    with torch.no_grad():
        next(model.tower.parameters()).add_(1)
    with pytest.raises(CheckpointError, match=r"does not contain its tower.* the changed tensors of the tower: 1\."):
        model.export(tmp_path / "changed")
    assert [path.name for path in tmp_path.iterdir() if "changed" in path.name] == []


@pytest.mark.slow
def test_what_is_refused(tiny_config: Path, tiny_llm: Path, vita15: Path, golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = build_model(tiny_config)
    with pytest.raises(CheckpointError, match=r"was not opened from a VITA checkpoint.*--source DIR"):
        model.export(out)
    with pytest.raises(CheckpointError, match=r"takes 128 channels .* but the tower 'clip' gives 32"):
        model.export(out, source=vita15)
    model.save(tmp_path / "own")
    with pytest.raises(CheckpointError, match="was not saved from a VITA or LLaVA checkpoint"):
        saved_from(tmp_path / "own")
    llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    with pytest.raises(CheckpointError, match=r"has the layout LLaVA \(converted\), and only VITA's"):
        build_model(checkpoint=tmp_path / "hf", overrides=CPU).export(out)
    pooled = build_model(checkpoint=vita15, overrides=[*CPU, "tower.pool=1"])
    with pytest.raises(CheckpointError, match=r"tower\.pool is 1 instead of None.*model\.save"):
        pooled.export(out)
    whole = build_model(checkpoint=vita15, overrides=CPU)
    with pytest.raises(VitaError, match="layout cannot be written: 'llava'"):
        whole.export(out, layout="llava")
    other = Path(shutil.copytree(vita15, tmp_path / "other"))
    rewrite(other, lambda state: {key: tensor for key, tensor in state.items() if "model.layers.2." not in key})
    edit_config(other, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"has no place for 12 of the model's tensors: llm model\.layers\.2"):
        whole.export(out, source=other)
    assert not out.exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VitaError, match="already exists: "):
        whole.export(tmp_path / "file")
    typo = vita("export", vita15, "--layout", "vitas", "--out", out)
    assert typo.returncode == 2
    assert "Did you mean 'vita'? Try: `--layout vita`" in typo.stderr
