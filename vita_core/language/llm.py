"""The language model with its weights, tokenizer and prompt. Every causal language model of transformers works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.adapters import load_adapter, merge_adapter
from vita_core.config.schema import LLMConfig, PromptConfig
from vita_core.errors import CheckpointError, VitaError
from vita_core.language.conversations import CONVERSATIONS
from vita_core.language.decoding import check_generation, stop_token
from vita_core.language.prompts import PICTURE_ID, known_token, prompt_ids
from vita_core.language.tokenizing import decoded, part_tokenizer, pretrained_tokenizer
from vita_core.loading import LoadReport, check_values, part_tensors
from vita_core.planning.language import LanguagePart
from vita_core.plugins.discovery import describe
from vita_core.untrusted.schemas import check_methods

__all__ = ["PICTURE_ID", "LanguageModel"]


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer. `model` is the transformers model itself.

    It is opened from `config.weights`, or from `part` if that is given. Raises CheckpointError if there is no causal
    language model or no tokenizer.
    """

    def __init__(self, config: LLMConfig, device: torch.device, part: LanguagePart | None = None) -> None:
        super().__init__()
        try:
            self.tokenizer, model = _pretrained(config) if part is None else _from_part(config, part)
        except (VitaError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # transformers raises any of them for a damaged file, and ImportError without a flash kernel
            first = describe(error).rstrip(".")
            other = "the directory or hub id of a causal language model that transformers supports"
            raise CheckpointError(
                f"llm.weights: cannot open {config.weights} as a causal language model: {first}. "
                f"Try: {other if config.attention == 'auto' else '`llm.attention: auto`'}"
            ) from error
        for own in (model.config, model.config.get_text_config()):
            check_methods(vars(own), type(own), f"llm.weights: {config.weights}/config.json")
        if model.config.is_encoder_decoder:
            raise CheckpointError(
                f"llm.weights: {config.weights}/config.json: is_encoder_decoder: true: not a causal language model. Try: a model "
                "that only decodes, or remove that key"
            )
        if getattr(model, "generation_config", None) is not None:
            check_generation(model.generation_config, config.weights)
        if config.adapter is not None:
            load_adapter(model.to(device), Path(config.adapter))
        self.model = model.to(device).eval().requires_grad_(False)
        for key, parameter in self.model.named_parameters():
            check_values(parameter, key, f"llm.weights: {config.weights}", floats=False)
        self.name = config.weights

    @property
    def hidden_size(self) -> int:
        """The width of the embeddings."""
        return int(self.model.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embeddings."""
        return self.model.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def context(self) -> int | None:
        """The largest number of tokens that the model was trained to read at once, or None if its config does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def stop_id(self) -> int:
        """The id of the token that ends an answer."""
        return stop_token(self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (T, D) of token ids (T). Raises CheckpointError for an id that has none."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise CheckpointError(
                f"{self.name}: its tokenizer gives the token id {int(ids.max())}, but the model has {rows} embeddings. Try: the "
                "tokenizer's files of the same checkpoint"
            )
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def published(self) -> dict[str, Tensor]:
        """Return the tensors under their published keys. In memory, transformers joins the experts of some models."""
        from transformers.core_model_loading import revert_weight_conversion

        state: dict[str, Tensor] = revert_weight_conversion(self.model, self.model.state_dict())
        return state

    def prompt(self, prompt: PromptConfig, question: str, pictures: int | Sequence[int]) -> list[int]:
        """Return the token ids of a question about pictures, with `PICTURE_ID` in the place of each picture.

        `pictures` is the number of pictures, or a list of how many places each one takes (for formats that mark every
        tile). The question may contain ``<image>`` to say where the pictures go, once per picture. Raises VitaError if
        the numbers differ.
        """
        places = [1] * pictures if isinstance(pictures, int) else list(pictures)
        return prompt_ids(self.tokenizer, prompt, question, places)

    def row_ends(self, prompt: PromptConfig) -> Tensor | None:
        """Return the embedded ``prompt.row_tokens`` (2, D), one for after each row of a picture but the last, one for after that.

        None if the prompt has no such tokens. Raises CheckpointError if the tokenizer does not have one.
        """
        if prompt.row_tokens is None:
            return None
        names = [known_token(self.tokenizer, token, "row_tokens") for token in prompt.row_tokens]
        return self.embed(torch.tensor(self.tokenizer.convert_tokens_to_ids(names)))

    def marks_tiles(self, prompt: PromptConfig) -> bool:
        """Return whether the prompt format has one ``<image>`` per tile instead of one per picture."""
        return prompt.template in CONVERSATIONS and CONVERSATIONS[prompt.template].per_tile

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer. Raises CheckpointError for a tokenizer that cannot write it."""
        return decoded(self.tokenizer, ids, skip_special_tokens=True).strip()

    def streamer(self, on_text: Callable[[str], None]) -> Any:
        """Return a streamer for ``generate`` that calls `on_text` with each finished piece of the answer."""
        from transformers import TextStreamer

        class Pieces(TextStreamer):  # type: ignore[misc]  # transformers is untyped
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                on_text(text)

        return Pieces(SimpleNamespace(decode=partial(decoded, self.tokenizer)), skip_special_tokens=True)


def _pretrained(config: LLMConfig) -> tuple[Any, Any]:
    """Return the tokenizer and the model of a directory or hub id."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer, where, options, source = pretrained_tokenizer(config)
    own: dict[str, Any] = {}
    if ((source.config or {}).get("quantization_config") or {}).get("quant_method") == "gguf":
        # a model that was once made from GGUF: its weights are plain tensors, but transformers would take them for packed
        # ones, warn of their dtype, and not save the model
        own["config"] = AutoConfig.from_pretrained(where, **options)
        vars(own["config"]).pop("quantization_config")
    return tokenizer, AutoModelForCausalLM.from_pretrained(where, **_options(config), **options, **own)


def _from_part(config: LLMConfig, part: LanguagePart) -> tuple[Any, Any]:
    """Return a part's tokenizer and model, loaded strictly. Tensors of the configured dtype stay mapped to their files."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    tokenizer, settings = part_tokenizer(part), dict(part.config)
    decoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
    state = {key: read() for key, read in part_tensors(part.part)}
    model, found = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder)].from_pretrained(
        None,
        config=decoder,
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, together with the other keys
        **_options(config),
    )
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    mismatched = [f"{key} {tuple(theirs)} for {tuple(own)}" for key, theirs, own in sorted(found["mismatched_keys"])]
    report = LoadReport(missing=missing, unexpected=unexpected, mismatched=mismatched)
    report.loaded = len(state) - len(unexpected) - len(mismatched)
    report.raise_if_wrong(f"language model of {config.weights}")
    if (part.directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(part.directory, local_files_only=True)
    return tokenizer, model if part.adapter is None else merge_adapter(model, part.adapter)


def _options(config: LLMConfig) -> dict[str, Any]:
    attention = "sdpa" if config.attention == "auto" else config.attention
    return {"dtype": getattr(torch, config.dtype), "attn_implementation": attention}
