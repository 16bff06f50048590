"""From a language model's config to everything known of it before its weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.schema import LLMConfig
from vita_core.errors import CheckpointError
from vita_core.layouts.parts import Part
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import import_object, registry
from vita_core.plugins.specs import LLMShape, LLMSpec
from vita_core.weights.sources import Source, locate

__all__ = ["LanguagePart", "ResolvedLLM", "resolve_llm"]


@dataclass(frozen=True)
class LanguagePart:
    """A decoder inside a larger checkpoint.

    config: its config in transformers' keys, ``model_type`` among them. directory: where its tokenizer is. part: its
    tensors. adapter: the directory of a LoRA adapter to merge into it.
    """

    config: Mapping[str, Any]
    directory: Path
    part: Part
    adapter: Path | None = None


@dataclass(frozen=True)
class ResolvedLLM:
    """A language model's spec and owner, its config, and where its weights are: `source`, or `part` of a checkpoint."""

    spec: LLMSpec
    owner: Owner
    settings: LLMConfig
    source: Source
    part: LanguagePart | None = None

    @property
    def checkpoint_config(self) -> Mapping[str, Any]:
        """The decoder's own ``config.json``."""
        return self.source.config if self.part is None else self.part.config

    @property
    def hidden_size(self) -> int | None:
        """Width of its embeddings, or None where its config does not say it."""
        stated = self.checkpoint_config.get("hidden_size")
        return stated if isinstance(stated, int) else None

    def shape(self) -> LLMShape:
        """Its sizes, from its own config or the published one. Raises CheckpointError for a config without them."""
        stated, where = self.spec.geometry, f"llm.weights: {self.settings.weights}"
        geometry: Callable[[Mapping[str, Any]], LLMShape] = (
            import_object(stated, requires=self.spec.requires, owner=self.owner) if isinstance(stated, str) else stated
        )
        try:
            return geometry(self.checkpoint_config)
        except KeyError as error:
            raise CheckpointError(
                f"{where} has no {error} in its config.json, so `vita plan` cannot size it. Try: a causal language model "
                "of transformers"
            ) from error
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{where} has a config.json that `vita plan` cannot read: {error}. Try: the config.json that the model "
                "was published with"
            ) from error


def resolve_llm(config: LLMConfig, *, offline: bool = False, part: LanguagePart | None = None) -> ResolvedLLM:
    """Find the language model's spec and read its ``config.json``; with `offline` a known hub id's published one.

    Raises PluginError or CheckpointError.
    """
    found = registry().find(LLMSpec, config.type)
    source = locate(config.weights, config.revision, found.spec.hub_ids if offline else None, offline=offline)
    return ResolvedLLM(found.spec, found.owner, config, source, part)
