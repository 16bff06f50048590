"""The specs that a plugin returns from its hooks: frozen data, no torch.

Heavy modules are named by a ``"module:name"`` string and imported only when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vita_core.errors import PluginError, VitaError

__all__ = ["LLMShape", "LLMSpec", "ProjectorSpec", "Shape", "Stage", "TowerSpec"]

CheckpointConfig = Mapping[str, Any]
"""The parsed ``config.json`` (or similar file) of a checkpoint."""
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The names of transformers' weight files. The first that exists is read."""
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
"""The values of ``tower.attention`` other than ``auto``, named as in transformers."""


@dataclass(frozen=True)
class Stage:
    """One index of ``select_layer``: 0 is the embeddings (a CNN's stem), k is the output of block (a CNN's stage) k.

    `parameters` and `macs` (multiply-accumulates for one picture of the configured size) count this step alone, so an
    encoder that is truncated after stage k costs the sum of stages 0..k.
    """

    channels: int
    grid: tuple[int, int]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Shape:
    """Geometry of an encoder, known before any weight is read.

    `image_size` is (height, width) in pixels. `prefix_tokens` is the number of tokens before the patch tokens (CLS,
    registers). `norm_parameters` is the number of parameters of the final norm, or None if the encoder has no final norm
    (``norm: true`` is then an error). `first_layer` is 1 if the embeddings cannot be selected.
    """

    image_size: tuple[int, int]
    stages: tuple[Stage, ...]
    prefix_tokens: int = 0
    norm_parameters: int | None = None
    first_layer: int = 0

    def __post_init__(self) -> None:
        sizes = [*self.image_size, *(size for stage in self.stages for size in (stage.channels, *stage.grid))]
        if not self.stages or min(sizes) < 1:
            raise VitaError(
                f"the encoder's shape has no features: {self.image_size} pixels, stages {self.stages[:2]}. "
                "Try: check the sizes in the checkpoint's config.json (image_size, patch_size, hidden_size)"
            )

    @property
    def layers(self) -> int:
        """Number of blocks (transformer) or stages (CNN), without the embeddings."""
        return len(self.stages) - 1

    @classmethod
    def from_stages(
        cls,
        image_size: tuple[int, int],
        stages: Iterable[tuple[int, tuple[int, int], int, int]],
        norm_parameters: int | None = None,
        prefix_tokens: int = 0,
        first_layer: int = 0,
    ) -> Shape:
        """Return the shape of any encoder from (channels, grid, parameters, macs) of each layer, the stem first."""
        return cls(image_size, tuple(Stage(*stage) for stage in stages), prefix_tokens, norm_parameters, first_layer)

    @classmethod
    def vit(
        cls,
        *,
        image_size: int | tuple[int, int],
        patch_size: int,
        width: int,
        layers: int,
        mlp_width: int,
        embedding_parameters: int,
        block_parameters: int,
        prefix_tokens: int = 0,
        norm_parameters: int | None = None,
        mlp_matrices: int = 2,
    ) -> Shape:
        """Return the shape of a plain vision transformer (arXiv 2010.11929).

        One block costs, for T tokens of width C, ``T * (4 C^2 + m C M) + 2 T^2 C`` multiply-accumulates with
        m = `mlp_matrices` (2; 3 for a gated MLP) and M = `mlp_width`; the patch embedding ``N * 3 p^2 C``.
        """
        height, width_px = (image_size, image_size) if isinstance(image_size, int) else image_size
        grid = (height // patch_size, width_px // patch_size)
        patches = grid[0] * grid[1]
        tokens = patches + prefix_tokens
        block_macs = tokens * (4 * width * width + mlp_matrices * width * mlp_width) + 2 * tokens * tokens * width
        stem = Stage(width, grid, embedding_parameters, patches * 3 * patch_size * patch_size * width)
        block = Stage(width, grid, block_parameters, block_macs)
        return cls((height, width_px), (stem, *[block] * layers), prefix_tokens, norm_parameters)


def _check(spec: Any, kinds: Mapping[str, Any]) -> None:
    """Raise PluginError for a field of the wrong type. Without this check the error would appear later, in other code."""
    for key, kind in kinds.items():
        if not isinstance(value := getattr(spec, key), kind):
            wanted = getattr(kind, "__name__", str(kind).replace("collections.abc.", "").replace(" | ", " or "))
            raise PluginError(f"{type(spec).__name__} {spec.name!r}: wrong type of {key}: {value!r}. Try: a {wanted}")
    if not spec.name or "/" in spec.name:
        raise PluginError(f"{type(spec).__name__}: wrong name: {spec.name!r}. Try: a word without `/`")


def _never(config: CheckpointConfig) -> bool:
    return False


@dataclass(frozen=True)
class TowerSpec:
    """A vision tower that ``type: NAME`` selects.

    name: the value of ``type:`` in a YAML file.
    summary: one line for ``vita towers``.
    factory: ``"module:Class"`` of a `BaseVisionTower` subclass, imported when a tower is built.
    shape: function of a checkpoint config and ``tower.options`` that returns a `Shape`; ``"module:function"`` if it needs torch.
    processor: function of a checkpoint config and a `Shape` that returns a dict in the form of ``preprocessor_config.json``,
    used for checkpoints without that file.
    model_types: values of ``model_type`` in ``config.json`` that this tower opens.
    recognises: function of a checkpoint config that returns whether this tower opens it, for layouts without a ``model_type``.
    hub_ids: known hub ids and their published configs (geometry), so that ``vita plan`` works offline.
    weight_files: file patterns for a checkpoint directory; the first that matches is read.
    defaults: tower keys whose default differs from the general one (``{"select_layer": -2}``).
    options: ``"module:Options"``, a pydantic model that validates ``tower.options``.
    requires: the requirement to ``pip install`` if importing the factory fails.
    remote_code: whether the tower runs code from the checkpoint's repository; ``trust_remote_code`` is an error otherwise.
    attentions: the values of ``attention`` that the encoder supports (`BaseVisionTower.attention`), besides ``auto``.
    example: a small checkpoint config, from which ``vita check NAME`` builds the tower with random weights.
    fallback: whether the tower opens checkpoints only if no tower without `fallback` does. Set it for a tower that opens
    every model of a library, so that a tower written for one of these models is chosen instead.
    """

    name: str
    summary: str
    factory: str
    shape: Callable[[CheckpointConfig, Mapping[str, Any]], Shape] | str
    processor: Callable[[CheckpointConfig, Shape], Mapping[str, Any]] | str
    model_types: tuple[str, ...] = ()
    recognises: Callable[[CheckpointConfig], bool] = _never
    hub_ids: Mapping[str, CheckpointConfig] = field(default_factory=dict)
    weight_files: tuple[str, ...] = WEIGHT_FILES
    defaults: Mapping[str, Any] = field(default_factory=dict)
    options: str | None = None
    requires: str | None = None
    remote_code: bool = False
    attentions: tuple[str, ...] = ATTENTIONS
    example: CheckpointConfig | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        _check(
            self,
            dict.fromkeys(("name", "summary", "factory"), str)
            | dict.fromkeys(("hub_ids", "defaults"), Mapping)
            # `in` on a string would match a part of it
            | dict.fromkeys(("model_types", "weight_files", "attentions"), tuple | list)
            | dict.fromkeys(("shape", "processor"), Callable | str)
            | {"recognises": Callable, "example": Mapping | None, "fallback": bool},
        )

    def opens(self, config: CheckpointConfig) -> bool:
        """Return whether this tower opens a checkpoint with this config."""
        return config.get("model_type") in self.model_types or self.recognises(config)


@dataclass(frozen=True)
class ProjectorSpec:
    """A projector that ``projector.type`` selects.

    pattern: a regular expression that the whole type must match (``mlp(\\d+)x_gelu``), or None to match `name` only.
    factory: ``"module:function"``, called with ``(type, in_features, out_features, options)``. It returns an ``nn.Module``
    that maps (B, N, in_features) to (B, N, out_features). A module with the methods of
    `vita_core.protocol.WordProjector` is first trained on the words of the captions.
    parameters: function of the same arguments that returns the number of parameters.
    """

    name: str
    summary: str
    factory: str
    parameters: Callable[[str, int, int, Mapping[str, Any]], int]
    pattern: str | None = None
    options: str | None = None
    requires: str | None = None

    def __post_init__(self) -> None:
        _check(
            self, dict.fromkeys(("name", "summary", "factory"), str) | {"parameters": Callable, "pattern": str | None}
        )
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise PluginError(
                f"ProjectorSpec {self.name!r}: pattern is not a regular expression: {self.pattern!r} ({error}). "
                "Try: a valid Python regular expression"
            ) from error


@dataclass(frozen=True)
class LLMShape:
    """The sizes of a decoder, all integers.

    `macs_per_token` counts multiply-accumulates, `cache_values_per_token` the values that the key-value cache keeps for
    one token. `context` is the largest number of tokens, or None if unknown.
    """

    hidden_size: int
    parameters: int
    macs_per_token: int
    cache_values_per_token: int
    context: int | None = None


@dataclass(frozen=True)
class LLMSpec:
    """A language model that ``llm.type`` selects.

    factory: ``"module:Class"`` of a `LanguageModel` subclass, called with the ``llm:`` section and a ``torch.device``.
    geometry: function of a checkpoint config that returns an `LLMShape`.
    hub_ids: known hub ids and their published configs.
    """

    name: str
    summary: str
    factory: str
    geometry: Callable[[CheckpointConfig], LLMShape] | str
    hub_ids: Mapping[str, CheckpointConfig] = field(default_factory=dict)
    requires: str | None = None

    def __post_init__(self) -> None:
        kinds = {"geometry": Callable | str, "hub_ids": Mapping}
        _check(self, dict.fromkeys(("name", "summary", "factory"), str) | kinds)
