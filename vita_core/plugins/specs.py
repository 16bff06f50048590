"""What a plugin tells the registry: frozen data, no torch. Everything heavy is named by a string and imported on use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vita_core.errors import PluginError, VitaError

__all__ = ["LLMShape", "LLMSpec", "ProjectorSpec", "Shape", "Stage", "TowerSpec"]

CheckpointConfig = Mapping[str, Any]
"""The parsed ``config.json`` (or the like) of a checkpoint."""
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What transformers calls its weights; the first that is there is read."""
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")
"""What ``tower.attention`` may be beside ``auto``, in transformers' names."""


@dataclass(frozen=True)
class Stage:
    """One index of ``select_layer``: 0 is the embeddings (or a CNN's stem), k the output of block (stage) k.

    `parameters` and `macs` (multiply-accumulates for one picture of the configured size) are those of this step
    alone, so that an encoder truncated behind stage k costs the sum of stages 0..k.
    """

    channels: int
    grid: tuple[int, int]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Shape:
    """Geometry of an encoder, known before any weight is read.

    `image_size` is (height, width) in pixels; `prefix_tokens` counts what stands before the patch tokens (CLS,
    registers). `norm_parameters` is the size of the final norm, or None where the encoder has none to apply
    (then ``norm: true`` is refused). `first_layer` is 1 where the embeddings cannot be tapped.
    """

    image_size: tuple[int, int]
    stages: tuple[Stage, ...]
    prefix_tokens: int = 0
    norm_parameters: int | None = None
    first_layer: int = 0

    def __post_init__(self) -> None:
        sizes = [*self.image_size, *(size for stage in self.stages for size in (stage.channels, *stage.grid))]
        if not self.stages or min(sizes) < 1:
            raise VitaError(f"a shape of {self.image_size} pixels with stages {self.stages[:2]} holds no features")

    @property
    def layers(self) -> int:
        """Number of blocks (transformer) or stages (CNN), the embeddings not counted."""
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
        """Shape of any encoder from its (channels, grid, parameters, macs) per selectable layer, the stem first."""
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
        """Shape of a plain vision transformer (arXiv 2010.11929).

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
    """Raises PluginError for a field of another kind: at discovery that is its plugin's failure, later everybody's."""
    for key, kind in kinds.items():
        if not isinstance(value := getattr(spec, key), kind):
            wanted = getattr(kind, "__name__", str(kind).replace("collections.abc.", ""))
            raise PluginError(f"{type(spec).__name__} {spec.name!r}: {key} must be a {wanted}, not {value!r}")
    if not spec.name or "/" in spec.name:
        raise PluginError(f"{type(spec).__name__}: the name {spec.name!r} must be a word without `/`")


def _never(config: CheckpointConfig) -> bool:
    return False


@dataclass(frozen=True)
class TowerSpec:
    """A vision tower that ``type: NAME`` selects.

    name: what a YAML file writes after ``type:``.
    summary: one line for ``vita towers``.
    factory: ``"module:Class"`` of a `BaseVisionTower` subclass, imported when a tower is built.
    shape: checkpoint config and ``tower.options`` -> `Shape`; a function, or ``"module:function"`` where it needs torch.
    processor: checkpoint config and `Shape` -> a ``preprocessor_config.json``-style dict, for checkpoints that carry none.
    model_types: values of ``model_type`` in ``config.json`` that this tower opens.
    recognises: for layouts without a ``model_type``: says whether a checkpoint config is one of this tower's.
    hub_ids: known hub ids -> their published config (geometry), so that `plan` works offline.
    weight_files: file patterns looked for in a checkpoint directory, the first that matches is read.
    defaults: tower keys whose default differs from the general one (``{"select_layer": -2}``).
    options: ``"module:Options"``, a pydantic model that validates ``tower.options``.
    requires: what to ``pip install`` when importing the factory fails.
    remote_code: whether the tower runs code from the checkpoint's repository; only then ``trust_remote_code`` is taken.
    attentions: the values of ``attention`` that the encoder is built with (`BaseVisionTower.attention`), beside ``auto``.
    example: a small checkpoint config with which ``vita check NAME`` builds the tower, its weights random.
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

    def __post_init__(self) -> None:
        _check(
            self,
            dict.fromkeys(("name", "summary", "factory"), str)
            | dict.fromkeys(("hub_ids", "defaults"), Mapping)
            # in a string, `in` would look for a part
            | dict.fromkeys(("model_types", "weight_files", "attentions"), tuple | list)
            | dict.fromkeys(("shape", "processor"), Callable | str)
            | {"recognises": Callable, "example": Mapping | None},
        )

    def opens(self, config: CheckpointConfig) -> bool:
        """Whether a checkpoint with this config is one of this tower's."""
        return config.get("model_type") in self.model_types or self.recognises(config)


@dataclass(frozen=True)
class ProjectorSpec:
    """A projector that ``projector.type`` selects.

    pattern: a regular expression that the whole type must match (``mlp(\\d+)x_gelu``), or None for just `name`.
    factory: ``"module:function"``, called with ``(type, in_features, out_features, options)``, returns an ``nn.Module``
    that maps (B, N, in_features) to (B, N, out_features). One that has the methods of `vita_core.protocol.WordProjector`
    is trained on the captions' words first.
    parameters: the same arguments -> its number of parameters, as an integer.
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
                f"ProjectorSpec {self.name!r}: pattern {self.pattern!r} is no regular expression: {error}"
            ) from error


@dataclass(frozen=True)
class LLMShape:
    """Integers of a decoder: width, parameters, multiply-accumulates per token, values its key-value cache keeps per token."""

    hidden_size: int
    parameters: int
    macs_per_token: int
    cache_values_per_token: int
    context: int | None = None


@dataclass(frozen=True)
class LLMSpec:
    """A language model that ``llm.type`` selects.

    factory: ``"module:Class"`` of a `LanguageModel` subclass, called with the ``llm:`` section and a ``torch.device``.
    geometry: checkpoint config -> `LLMShape`; hub_ids: known ids -> published config.
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
