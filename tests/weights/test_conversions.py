"""What becomes of the files in the wheels."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import golden_settings
from safetensors.torch import load_file

from vita_core import build_model, build_tower
from vita_core.weights.conversions import convert_efficientnet_lite2, convert_smollm2


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A one-layer Llama as the gguf library writes it, whose BPE would join the digits of 12 and of 11."""
    import gguf
    import numpy as np

    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    width, tokens = 32, ["<|endoftext|>", "1", "2", "12", "11", "a", "\u0120"]
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["1 2", "1 1"])  # transformers before 5.18 reads a list of one string as its letters
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {f"blk.0.{part}.weight": (width, width) for part in square}
    shapes |= {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    shapes |= {f"blk.0.{part}.weight": (width,) for part in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_keeps_its_split_of_digits_and_its_context(
    gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    convert_smollm2(gguf_file, tmp_path / "made")
    assert capfd.readouterr().err == ""
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.tokenize("a12") == ["a", "1", "2"]
    assert tokenizer.model_max_length == 256
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "made").config.num_hidden_layers == 1


def test_a_model_that_was_made_from_gguf_is_opened_as_plain_tensors_and_saved_again(
    gguf_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    convert_smollm2(gguf_file, made)
    config = json.loads((made / "config.json").read_text())
    assert "quantization_config" not in config
    mark = {"quant_method": "gguf", "gguf_file": gguf_file.name, "dequantize": False}  # earlier conversions wrote it
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": mark}))
    tower, llm = golden_settings("clip"), {"weights": str(made), "dtype": "bfloat16"}
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = build_model({"tower": tower, "llm": llm, "device": "cpu"})
    assert "GGUF" not in caplog.text
    written = load_file(made / "model.safetensors")
    state = model.llm.model.state_dict()
    assert written
    assert all(torch.equal(state[key], tensor) for key, tensor in written.items())
    model.llm.model.lm_head.weight.data.add_(1)
    model.save(tmp_path / "saved")
    assert torch.equal(build_model(tmp_path / "saved").llm.model.lm_head.weight, model.llm.model.lm_head.weight)


@pytest.mark.slow
def test_efficientnet_lite2_is_timms(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite2").eval()
    published = {
        f"_{place}": value for place, value in enumerate(model.state_dict().values())
    }  # other names, same order
    torch.save(published, tmp_path / "published.pth")
    made = tmp_path / "made"
    made.mkdir()
    convert_efficientnet_lite2(tmp_path / "published.pth", made)
    tower = build_tower({"weights": str(made), "options": {"class_scores": True}, "pool": 1})
    assert tower.resolved.spec.name == "timm"
    pixels = torch.rand(1, 3, *tower.resolved.geometry.input_size)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels)[:, 0, 1280:], model(pixels), atol=1e-4, rtol=1e-4)
    data = timm.data.resolve_data_config({}, model=model)
    processor = tower.image_processor
    assert tuple(processor.image_mean) == data["mean"]
    assert tower.resolved.geometry.input_size == data["input_size"][1:]
    assert processor.size["shortest_edge"] == int(260 / data["crop_pct"])
