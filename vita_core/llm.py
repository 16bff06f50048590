"""The language model: weights, tokenizer, prompt. Any causal language model of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.config import LLMConfig, PromptConfig
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.sources import Source, locate

__all__ = ["IMAGE", "PICTURE_ID", "LanguageModel"]

IMAGE = "<image>"
PICTURE_ID = -200
"""Stands for one picture among token ids, as in LLaVA and VITA."""


class LanguageModel(nn.Module):
    """A decoder with its tokenizer. `model` is the transformers model itself.

    Raises CheckpointError when the directory holds no causal language model or no tokenizer.
    """

    def __init__(self, config: LLMConfig, device: torch.device) -> None:
        super().__init__()
        source = locate(config.weights, config.revision)
        place, revision = _place(source), config.revision
        if config.trust_remote_code and source.path is None and revision is None:
            raise ConfigError("llm.trust_remote_code: needs `llm.revision`, the commit whose code you have read")
        from transformers import AutoModelForCausalLM, AutoTokenizer

        common: dict[str, Any] = {
            "revision": revision,
            "trust_remote_code": config.trust_remote_code,
            "local_files_only": source.path is not None,
        }
        dtype = getattr(torch, config.dtype)
        attention = "sdpa" if config.attention == "auto" else config.attention
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(place, **common)
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, attn_implementation=attention, **common)
        except (OSError, ValueError, KeyError, TypeError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"llm.weights: cannot open {config.weights} as a causal language model: {first}"
            ) from error
        self.model = model.to(device).eval().requires_grad_(False)
        self.name = config.weights

    @property
    def hidden_size(self) -> int:
        """Width of its embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Of its embeddings."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def context(self) -> int | None:
        """Most tokens it was trained to read at once."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def stop_id(self) -> int:
        """The token that ends an answer."""
        stop = self.model.generation_config.eos_token_id
        stop = self.tokenizer.eos_token_id if stop is None else stop
        return int(stop[0] if isinstance(stop, list) else stop)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (T) -> embeddings (T, D)."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def prompt(self, prompt: PromptConfig, question: str, pictures: int) -> list[int]:
        """Token ids of a question about `pictures` pictures, `PICTURE_ID` where each stands.

        A question that holds ``<image>`` itself says where they stand, and must hold one for each. Raises VitaError.
        """
        written = question.count(IMAGE)
        if written not in (0, pictures):
            raise VitaError(
                f"the question holds {written} {IMAGE} for {pictures} pictures; write one for each, or none"
            )
        content = question if written else f"{IMAGE}\n" * pictures + question
        if prompt.template == "plain":
            text = "".join(part + "\n" for part in (prompt.system, content) if part)
        else:
            text = self._chat(prompt.system, content)
        ids: list[int] = []
        for index, segment in enumerate(text.split(IMAGE)):
            ids += [PICTURE_ID] * (index > 0) + self.tokenizer(segment, add_special_tokens=False).input_ids
        bos = self.tokenizer.bos_token_id
        if prompt.template == "plain" and bos is not None and getattr(self.tokenizer, "add_bos_token", False):
            ids.insert(0, bos)
        return ids

    def _chat(self, system: str | None, content: str) -> str:
        if self.tokenizer.chat_template is None:
            raise ConfigError("prompt.template: this tokenizer has no chat template; set `prompt.template: plain`")
        messages = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def streamer(self, on_text: Callable[[str], None]) -> Any:
        """A streamer for ``generate`` that calls `on_text` with each finished piece of the answer."""
        from transformers import TextStreamer

        class Pieces(TextStreamer):  # type: ignore[misc]  # transformers is untyped
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                on_text(text)

        return Pieces(self.tokenizer, skip_special_tokens=True)


def _place(source: Source) -> Path | str:
    """What transformers is given: a directory, or the hub id."""
    if source.path is None:
        assert source.hub_id is not None
        return source.hub_id
    if source.path.is_file():
        raise CheckpointError(
            f"llm.weights: {source.path} is a file; give the directory that holds it and its tokenizer"
        )
    return source.path
