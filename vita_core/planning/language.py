"""Resolve a language model: its spec, its config and its sizes. No weight is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.schema import LLMConfig
from vita_core.errors import CheckpointError
from vita_core.layouts.parts import Part
from vita_core.planning.adapters import check_adapter
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import import_object, registry
from vita_core.plugins.specs import LLMShape, LLMSpec
from vita_core.untrusted.sizes import check_parameters
from vita_core.weights.sources import Source, locate
from vita_core.weights.stated import check_commit

__all__ = ["LanguagePart", "ResolvedLLM", "resolve_llm"]


@dataclass(frozen=True)
class LanguagePart:
    """A language model inside a larger checkpoint.

    config: its config with transformers' keys, including ``model_type``.
    directory: the directory of its tokenizer.
    part: its tensors.
    adapter: the directory of a LoRA adapter to merge into it, or None.
    """

    config: Mapping[str, Any]
    directory: Path
    part: Part
    adapter: Path | None = None


@dataclass(frozen=True)
class ResolvedLLM:
    """A language model's spec, owner and config. Its weights are the files of `source`, or `part` of a checkpoint."""

    spec: LLMSpec
    owner: Owner
    settings: LLMConfig
    source: Source
    part: LanguagePart | None = None

    @property
    def checkpoint_config(self) -> Mapping[str, Any]:
        """The language model's own ``config.json``."""
        return self.source.config if self.part is None else self.part.config

    @property
    def hidden_size(self) -> int | None:
        """The width of its embeddings, or None if its config does not state it."""
        stated = self.checkpoint_config.get("hidden_size")
        return stated if isinstance(stated, int) else None

    @property
    def layers(self) -> int | None:
        """The number of its decoder blocks, or None if its config does not state it."""
        stated = self.checkpoint_config.get("num_hidden_layers")
        return stated if isinstance(stated, int) else None

    def shape(self) -> LLMShape:
        """Return the sizes from its own or published config. Raises CheckpointError if the config does not state them."""
        stated, where = self.spec.geometry, f"llm.weights: {self.settings.weights}"
        geometry: Callable[[Mapping[str, Any]], LLMShape] = (
            import_object(stated, requires=self.spec.requires, owner=self.owner) if isinstance(stated, str) else stated
        )
        try:
            shape = geometry(self.checkpoint_config)
            check_parameters(shape.parameters, f"{where}: config.json")
        except KeyError as error:
            raise CheckpointError(
                f"{where} has no {error} in its config.json, so the plan cannot compute its sizes. "
                "Try: a causal language model of transformers"
            ) from error
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{where} has a config.json that the plan cannot read: {error}. "
                "Try: the config.json that the model was published with"
            ) from error
        return shape


def resolve_llm(config: LLMConfig, *, offline: bool = False, part: LanguagePart | None = None) -> ResolvedLLM:
    """Find the spec of a language model and read its ``config.json``. With `offline`, use the published config of a hub id.

    Raises PluginError or CheckpointError.
    """
    found = registry().find(LLMSpec, config.type)
    check_adapter("llm.adapter", config.adapter)
    if config.trust_remote_code:
        check_commit("llm", config.weights, config.revision)
    source = locate(config.weights, config.revision, found.spec.hub_ids if offline else None, offline=offline)
    return ResolvedLLM(found.spec, found.owner, config, source, part)
