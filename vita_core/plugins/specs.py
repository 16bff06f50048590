"""The specs that a plugin returns from its hooks: frozen data, no torch.

Heavy modules are named by a ``"module:name"`` string and imported only when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vita_core.errors import PluginError
from vita_core.plugins.native import NativeSize
from vita_core.plugins.shapes import Shape, Stage

__all__ = [
    "LLMShape",
    "LLMSpec",
    "NativeSize",
    "ProjectorSpec",
    "Shape",
    "Stage",
    "Stated",
    "TowerSpec",
    "check_fields",
    "plain",
]

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
class Stated:
    """A default that the checkpoint states, for `TowerSpec.defaults`. `by` is the key in its ``config.json``."""

    value: Any
    by: str


def plain(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `defaults` of a spec without their origins."""
    return {key: value.value if isinstance(value, Stated) else value for key, value in defaults.items()}


def check_fields(spec: Any, kinds: Mapping[str, Any]) -> None:
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
    factory: ``"module:Class"`` of a `BaseVisionTower` subclass, imported when a tower is built; or a function of a
    `ResolvedTower` and a device that returns such a tower, if several classes share a spec.
    shape: function of a checkpoint config and ``tower.options`` that returns a `Shape`; ``"module:function"`` if it needs torch.
    A parameter named `preprocessor` gets the content of the checkpoint's ``preprocessor_config.json``, or None. An encoder of
    native resolution (`Shape.native`) needs a parameter `size`: (height, width) of the pictures to count for, or None.
    A parameter `image_size` gets ``tower.image_size`` as (height, width), or None; without it, that key is an error.
    Without `shape`, it is measured by one run of the encoder on the meta device (see `BaseVisionTower.block_path`).
    processor: for checkpoints without ``preprocessor_config.json``: a function of a checkpoint config and a `Shape` that
    returns a dict in the form of that file, or the dict itself, which may leave out the type, the sizes and the filter. A
    function with a parameter `preprocessor` is always called, with the content of the file or None. A parameter `options`
    gets ``tower.options``.
    model_types: values of ``model_type`` in ``config.json`` that this tower opens.
    recognises: function of a checkpoint config that returns whether this tower opens it, for layouts without a ``model_type``.
    hub_ids: known hub ids and their published configs (geometry), so that ``vita plan`` works offline.
    names: ``"module:function"``, called with a value of ``weights`` that is neither a path nor a hub id. If it is the name of
    a model, the function returns what to write instead, a text to follow ``Try:``; otherwise None.
    random: ``"module:function"``, called with a value of ``weights`` if ``options`` say ``pretrained: false``. It returns the
    config of the model of that name, which then gets random weights, or None for an unknown name.
    weight_files: file patterns for a checkpoint directory; the first that matches is read.
    config_file: the config file to read with ``type: NAME``, where a checkpoint has it beside a ``config.json``.
    defaults: tower keys whose default differs from the general one (``{"select_layer": -2}``), or a function of a checkpoint
    config that returns them, for a tower that opens several layouts. A value that the checkpoint's config states is a
    ``Stated(value, by="its key")``, which ``vita plan`` prints as its origin.
    options: ``"module:Options"``, a pydantic model that validates ``tower.options``.
    requires: the requirement to ``pip install`` if importing the factory fails.
    remote_code: whether the tower runs code from the checkpoint's repository; ``trust_remote_code`` is an error otherwise. If
    the user sets it, the checkpoint config has a key ``trusted_code``, with the ``place`` (a directory or a hub id) and the
    ``revision`` of the code.
    attentions: the values of ``attention`` that the encoder supports (`BaseVisionTower.attention`), besides ``auto``.
    example: a small checkpoint config, from which ``vita check NAME`` builds the tower with random weights.
    opens_blocks: whether reductions can run inside the encoder's blocks, or ``"module:function"`` of a checkpoint config and
    ``tower.options`` that returns whether they can. The tower's class then has `BaseVisionTower.block_parts`.
    fallback: whether the tower opens checkpoints only if no tower without `fallback` does. Set it for a tower that opens
    every model of a library, so that a tower written for one of these models is chosen instead.
    """

    name: str
    summary: str
    factory: str
    shape: Callable[[CheckpointConfig, Mapping[str, Any]], Shape] | str | None = None
    processor: Callable[..., Mapping[str, Any]] | Mapping[str, Any] | str | None = None
    model_types: tuple[str, ...] = ()
    recognises: Callable[[CheckpointConfig], bool] = _never
    hub_ids: Mapping[str, CheckpointConfig] = field(default_factory=dict)
    names: str | None = None
    random: str | None = None
    weight_files: tuple[str, ...] = WEIGHT_FILES
    config_file: str = "config.json"
    defaults: Mapping[str, Any] | Callable[[CheckpointConfig], Mapping[str, Any]] = field(default_factory=dict)
    options: str | None = None
    requires: str | None = None
    remote_code: bool = False
    attentions: tuple[str, ...] = ATTENTIONS
    example: CheckpointConfig | None = None
    fallback: bool = False
    opens_blocks: bool | str = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            dict.fromkeys(("name", "summary", "factory", "config_file"), str)
            # `in` on a string would match a part of it
            | dict.fromkeys(("model_types", "weight_files", "attentions"), tuple | list)
            | {"shape": Callable | str | None, "processor": Callable | Mapping | str | None}
            | {"hub_ids": Mapping, "defaults": Mapping | Callable, "example": Mapping | None}
            | {"recognises": Callable, "fallback": bool, "opens_blocks": bool | str, "remote_code": bool}
            | dict.fromkeys(("names", "random", "options", "requires"), str | None),
        )

    def opens(self, config: CheckpointConfig) -> bool:
        """Return whether this tower opens a checkpoint with this config."""
        return config.get("model_type") in self.model_types or self.recognises(config)

    def defaults_for(self, config: CheckpointConfig) -> Mapping[str, Any]:
        """Return the tower keys whose default differs from the general one, for a checkpoint with this config."""
        return self.defaults if isinstance(self.defaults, Mapping) else self.defaults(config)


@dataclass(frozen=True)
class ProjectorSpec:
    """A projector that ``projector.type`` selects.

    pattern: a regular expression that the whole type must match (``mlp(\\d+)x_gelu``), or None to match `name` only.
    factory: ``"module:function"``, called with ``(type, in_features, out_features, options)``. It returns an ``nn.Module``
    that maps (B, N, in_features) to (B, N', out_features). If its ``forward`` has a parameter `grid`, it gets the rows and
    columns of the N tokens, or None if they have no grid. A module with the methods of
    `vita_core.protocol.WordProjector` is first trained on the words of the captions.
    parameters: function of the same arguments that returns the number of parameters.
    tokens: function of the tokens' ``(rows, columns)`` that returns those of the output, or the number N' if the output has no
    grid; it raises ConfigError for a grid that the module cannot take. A parameter named `options` gets the validated options.
    Without `tokens`, the output has the tokens of the input, in the same grid.
    macs: function of the arguments of `parameters` and the numbers N and N' that returns the multiply-accumulates of a
    picture. Without it, each token of the output counts once through all parameters.
    paper: the title of the paper that describes the projector, with its arXiv id, for ``vita projectors``.
    example: options of a small projector, which ``vita check NAME`` builds with random weights.
    """

    name: str
    summary: str
    factory: str
    parameters: Callable[[str, int, int, Mapping[str, Any]], int]
    pattern: str | None = None
    options: str | None = None
    requires: str | None = None
    tokens: Callable[..., tuple[int, int] | int] | None = None
    macs: Callable[[str, int, int, Mapping[str, Any], int, int], int] | None = None
    paper: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {"parameters": Callable, "pattern": str | None, "example": Mapping}
        kinds |= dict.fromkeys(("tokens", "macs"), Callable | None) | dict.fromkeys(("options", "requires"), str | None)
        check_fields(self, dict.fromkeys(("name", "summary", "factory", "paper"), str) | kinds)
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
    one token. `context` is the largest number of tokens, or None if unknown. `block_parameters` is the number of parameters
    of one block, and `linears` are name, inputs and outputs of its linear layers. They are None and empty if not known, and
    ``vita plan`` then does not tell what an adapter or a part of the blocks costs.
    """

    hidden_size: int
    parameters: int
    macs_per_token: int
    cache_values_per_token: int
    context: int | None = None
    block_parameters: int | None = None
    linears: tuple[tuple[str, int, int], ...] = ()


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
        kinds = {"geometry": Callable | str, "hub_ids": Mapping, "requires": str | None}
        check_fields(self, dict.fromkeys(("name", "summary", "factory"), str) | kinds)
