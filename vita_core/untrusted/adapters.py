"""What the ``adapter_config.json`` of a LoRA adapter may be, as peft writes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vita_core.untrusted.patterns import MOST_REPEATS, check_quick, is_quick
from vita_core.untrusted.schemas import Outside

__all__ = ["AdapterConfig"]

Scale = Annotated[float | int, Field(ge=-1e6, le=1e6)]


class AdapterConfig(Outside):
    """What decides how large an adapter is, what it computes and what it is put beside. A null key is not supported."""

    r: Annotated[int, Field(ge=1)] = 8
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    alpha_pattern: dict[str, Scale] = Field(default_factory=dict)
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    lora_alpha: Scale = 8
    lora_dropout: Annotated[float | int, Field(ge=0, le=1)] = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    layer_replication: None = None
    arrow_config: None = None
    trainable_token_indices: None = None

    def check_patterns(self, file: str) -> None:
        """Raise CheckpointError for what peft would run as a regular expression on every name of the model, for ever."""
        excluded = [self.exclude_modules] if isinstance(self.exclude_modules, str) else []
        layers = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or []
        for key, patterns, most in (
            ("exclude_modules", excluded, MOST_REPEATS),
            ("rank_pattern", self.rank_pattern, 1),  # peft adds one to each
            ("alpha_pattern", self.alpha_pattern, 1),
            ("layers_pattern", layers, 0),
            ("modules_to_save", self.modules_to_save or [], 0),
        ):
            for pattern in patterns:
                check_quick(pattern, file, key, most)
        if isinstance(self.target_modules, str) and is_quick(self.target_modules):
            check_quick(self.target_modules, file, "target_modules")
