"""Open the tokenizer of a language model, without its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vita_core.config.schema import LLMConfig
from vita_core.errors import CheckpointError, VitaError
from vita_core.language.decoding import Generation, stop_token
from vita_core.planning.language import LanguagePart, ResolvedLLM
from vita_core.plugins.discovery import describe
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.schemas import checked
from vita_core.untrusted.tokenizers import check_steps
from vita_core.weights.shards import check_shards
from vita_core.weights.sources import Source, locate
from vita_core.weights.stated import check_commit, check_own_code

__all__ = [
    "checked_source",
    "decoded",
    "open_tokenizer",
    "part_tokenizer",
    "place",
    "pretrained_tokenizer",
    "tokenized",
]


SMALL = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def open_tokenizer(resolved: ResolvedLLM) -> tuple[Any, int]:
    """Return the tokenizer, and the id of the token that ends an answer. Raises CheckpointError if there is no tokenizer."""
    from transformers import GenerationConfig

    config, part = resolved.settings, resolved.part
    try:
        if part is None:
            tokenizer, where, options, _ = pretrained_tokenizer(config)
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


def pretrained_tokenizer(config: LLMConfig) -> tuple[Any, Path | str, dict[str, Any], Source]:
    """Return the tokenizer of a directory or hub id, how ``from_pretrained`` opens the rest of it, and its source."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoTokenizer

    source = checked_source(config)
    where = place(source)
    options = {
        "revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "local_files_only": source.path is not None,
    }
    tokenizer = _unpanicked(lambda: AutoTokenizer.from_pretrained(where, **options))
    if source.hub_id is not None:  # it was downloaded just now
        file = try_to_load_from_cache(source.hub_id, "tokenizer.json", revision=config.revision)
        if isinstance(file, str):
            check_steps(Path(file))
    return tokenizer, where, options, source


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
    # without an answer about code, transformers would ask on the terminal
    options = {"config": decoder, "local_files_only": True, "trust_remote_code": False}
    tokenizer = _unpanicked(lambda: AutoTokenizer.from_pretrained(part.directory, **options))
    older = part.directory / "chat_template.json"  # of the processor, which goes before the tokenizer's
    if older.is_file():
        tokenizer.chat_template = read_object(older).get("chat_template", tokenizer.chat_template)
    return tokenizer


def tokenized(tokenizer: Any, text: str, **options: Any) -> Any:
    """Return what the tokenizer gives for a text. Raises CheckpointError for a tokenizer that cannot read it."""
    return _told("the tokenizer does not accept the text", lambda: tokenizer(text, **options))


def decoded(tokenizer: Any, ids: Sequence[int], **options: Any) -> str:
    """Return the text of token ids. Raises CheckpointError for a tokenizer that cannot write it."""
    return str(_told("the tokenizer cannot write the answer", lambda: tokenizer.decode(ids, **options)))


def _unpanicked(call: Callable[[], Any]) -> Any:
    """Return what a call of the library `tokenizers` returns. Its patterns raise a PanicException, which is no `Exception`."""
    try:
        return call()
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(str(error)) from None


def _told(wrong: str, call: Callable[[], Any]) -> Any:
    try:
        return _unpanicked(call)
    except Exception as error:  # the library raises `Exception` itself
        raise CheckpointError(
            f"llm.weights: {wrong}: {describe(error).rstrip('.')}. Try: the tokenizer's files of the same checkpoint"
        ) from error


def check_texts(directory: Path) -> None:
    """Raise CheckpointError for a JSON file beside a language model that its libraries cannot read safely."""
    if (directory / "tokenizer.json").is_file():
        check_steps(directory / "tokenizer.json")
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
