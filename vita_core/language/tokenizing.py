"""Open the tokenizer of a language model, without its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_core.config.schema import LLMConfig
from vita_core.errors import CheckpointError, VitaError
from vita_core.language.decoding import Generation, stop_token
from vita_core.planning.language import LanguagePart, ResolvedLLM
from vita_core.plugins.discovery import describe
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.schemas import checked
from vita_core.untrusted.tokenizers import check_growth
from vita_core.weights.shards import check_shards
from vita_core.weights.sources import Source, locate
from vita_core.weights.stated import check_commit, check_own_code

__all__ = ["bounded", "checked_source", "hub_options", "open_tokenizer", "part_tokenizer", "place", "tokenized"]


SMALL = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def open_tokenizer(resolved: ResolvedLLM) -> tuple[Any, int]:
    """Return the tokenizer, and the id of the token that ends an answer. Raises CheckpointError if there is no tokenizer."""
    from transformers import AutoTokenizer, GenerationConfig

    config, part = resolved.settings, resolved.part
    try:
        if part is None:
            source = checked_source(config)
            where, options = place(source), hub_options(config, source)
            tokenizer = bounded(AutoTokenizer.from_pretrained(where, **options), config.weights)
        else:
            where, options, tokenizer = part.directory, {"local_files_only": True}, part_tokenizer(part)
    except (VitaError, MemoryError):
        raise
    except Exception as error:  # transformers raises any of them for a damaged file
        first = describe(error).rstrip(".")
        raise CheckpointError(
            f"llm.weights: cannot open the tokenizer of {config.weights}: {first}. Try: copy the tokenizer's files there"
        ) from error
    try:
        stop = GenerationConfig.from_pretrained(where, **options).eos_token_id
    except OSError:  # a checkpoint may have none: transformers then takes the one in its config.json
        stop = resolved.checkpoint_config.get("eos_token_id")
    return tokenizer, stop_token(stop, tokenizer.eos_token_id)


def checked_source(config: LLMConfig) -> Source:
    """Find a language model. Raises ConfigError or CheckpointError if it needs code that is not allowed to run."""
    if config.trust_remote_code:
        check_commit("llm", config.weights, config.revision)
    source = locate(config.weights, config.revision)
    if config.trust_remote_code:
        check_own_code(source, "tokenizer_config.json")
    if "auto_map" in source.config and not config.trust_remote_code and source.config.get("model_type") not in _known():
        raise CheckpointError(
            f"llm.weights: {config.weights} needs code from its repository, which is not allowed to run. "
            "Try: read that code, then set `llm.trust_remote_code: true` and `llm.revision: COMMIT`"
        )
    return source


def hub_options(config: LLMConfig, source: Source) -> dict[str, Any]:
    """Return the options of ``from_pretrained`` that say where files may come from."""
    return {
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": source.path is not None,
    }


def part_tokenizer(part: LanguagePart) -> Any:
    """Return the tokenizer of a language model inside a larger checkpoint. Raises CheckpointError if there is none."""
    from transformers import AutoConfig, AutoTokenizer

    if not any((part.directory / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"{part.directory}: no tokenizer (none of {', '.join(TOKENIZER_FILES)}). Try: copy the tokenizer's files there"
        )
    check_texts(part.directory)
    settings = dict(part.config)
    decoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
    tokenizer = AutoTokenizer.from_pretrained(  # without an answer about code, transformers would ask on the terminal
        part.directory, config=decoder, local_files_only=True, trust_remote_code=False
    )
    older = part.directory / "chat_template.json"  # of the processor, which goes before the tokenizer's
    if older.is_file():
        tokenizer.chat_template = read_object(older).get("chat_template", tokenizer.chat_template)
    return bounded(tokenizer, str(part.directory))


def bounded(tokenizer: Any, where: str) -> Any:
    """Return a tokenizer that was opened. Raises CheckpointError if its steps make a thousand letters of one."""
    for kind in ("normalizer", "post_processor", "decoder"):
        step = getattr(getattr(tokenizer, "backend_tokenizer", None), kind, None)
        if step is not None:
            check_growth(kind, json.loads(step.__getstate__()), f"{where}: tokenizer.json")
    return tokenizer


def tokenized(tokenizer: Any, text: str, **options: Any) -> Any:
    """Return what the tokenizer gives for a text. Raises CheckpointError for a tokenizer that cannot read it."""
    try:
        return tokenizer(text, **options)
    except (
        BaseException
    ) as error:  # the library raises `Exception` itself, and its patterns a PanicException, which is none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"llm.weights: the tokenizer does not accept the text: {describe(error).rstrip('.')}. Try: the tokenizer's files "
            "of the same checkpoint"
        ) from error


def check_texts(directory: Path) -> None:
    """Raise CheckpointError for a small JSON file beside a language model that transformers cannot parse safely."""
    for name in SMALL:
        if (directory / name).is_file():
            checked(Generation, read_object(directory / name), str(directory / name))


def _known() -> Any:
    """Return the model types that transformers has code for."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING


def place(source: Source) -> Path | str:
    """Return the directory or the hub id that transformers opens. Raises CheckpointError for a file."""
    if source.path is None:
        assert source.hub_id is not None
        return source.hub_id
    if source.path.is_file():
        raise CheckpointError(
            f"llm.weights: {source.path} is a file. Try: the directory that holds it and its tokenizer"
        )
    check_shards(source.path)
    check_texts(source.path)
    return source.path
