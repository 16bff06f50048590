"""What a config may say, validated: every key with its type and default. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, PositiveInt, Tag

from vita_core.config.configfiles import overridden, read_config
from vita_core.config.validation import Section, validate
from vita_core.config.yamlfile import Document, Mark
from vita_core.errors import ConfigError

__all__ = [
    "Config",
    "LLMConfig",
    "MLPOptions",
    "ProjectorConfig",
    "TowerConfig",
    "TrainingConfig",
    "config_from",
    "load_config",
]

DType = Literal["float32", "float16", "bfloat16"]
TowerDType = Literal["auto", "float32", "float16", "bfloat16"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"]


class S2Config(Section):
    """Scaling on Scales (arXiv 2403.13043). `scales` are picture sizes in pixels, the first the encoder's own."""

    scales: Annotated[list[PositiveInt], Field(min_length=1)]


class FreezeConfig(Section):
    """Train block `from_layer` (1 = the first), those behind it and the final norm; what stands before stays frozen."""

    from_layer: PositiveInt


Freeze = Annotated[
    Annotated[bool, Tag("(flag)")] | Annotated[FreezeConfig, Tag("(section)")],
    Discriminator(lambda value: "(section)" if isinstance(value, Mapping | FreezeConfig) else "(flag)"),
]


class TowerConfig(Section):
    """The vision tower. A key left at None takes the default of the tower's family (see ``vita towers``).

    `dtype: auto` is bfloat16 where the device has units for it, else float32; `attention: auto` is torch's own
    ``scaled_dot_product_attention``. `compile` runs the encoder through torch.compile: the first picture of each size
    waits for it, and a CPU needs a C++ compiler. `max_batch` is the most pictures (tiles and S2's crops of all pictures
    together) in one run of the encoder; left out, a GPU runs all at once, a CPU as many as its cache holds. Where
    gradients flow all run at once, for their activations are kept anyhow. `preprocess: fast` makes pixels that differ from
    the exact ones by at most 2 of their 255 levels, in less than half the time.
    """

    type: str | None = None
    weights: str
    revision: str | None = None
    trust_remote_code: bool = False
    select_layer: int | Annotated[list[int], Field(min_length=1)] | None = None
    select_feature: Literal["patch", "cls_patch", "cls"] | None = None
    norm: bool = False
    feature_scale: float | None = None
    s2: S2Config | None = None
    pixel_shuffle: Annotated[float, Field(gt=0, le=1)] | Literal[False] | None = None
    pool: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    freeze: Freeze = True
    dtype: TowerDType = "float32"
    attention: Attention = "auto"
    compile: bool = False
    delay_load: bool = False
    layers: Literal["needed", "all"] = "needed"
    preprocess: Literal["exact", "fast"] = "exact"
    max_batch: PositiveInt | None = None
    check_finite: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


class ProjectorConfig(Section):
    """The projector: ``linear``, ``mlpNx_gelu``, ``identity`` or a plugin's. Without `weights` it is untrained."""

    type: str = "mlp2x_gelu"
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class MLPOptions(Section):
    """``projector.options`` of ``linear`` and ``mlpNx_gelu``.

    `input_norm`, `input_gelu`: LayerNorm, then GELU on the tower's features first (GELU keeps of class scores only
    those that stand out). `hidden_size`: of the layers between, by default the language model's width.
    """

    input_norm: bool = False
    input_gelu: bool = False
    hidden_size: int | None = None


class LLMConfig(Section):
    """The language model: any ``AutoModelForCausalLM`` directory, fetched asset or hub id."""

    type: str = "auto"
    weights: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: DType = "float32"
    attention: Attention = "auto"


class TilesConfig(Section):
    """InternVL-style tiles of the tower's size: at most `max`, and a thumbnail when there are several."""

    min: PositiveInt = 1
    max: PositiveInt = 12
    thumbnail: bool = True

    @pydantic.model_validator(mode="after")
    def _least_and_most(self) -> TilesConfig:
        if self.min > self.max:
            raise ValueError(f"`min: {self.min}` is more than `max: {self.max}`")
        return self


class AnyresConfig(Section):
    """LLaVA-1.6's tiles: the picture is fitted into the best of `grids` ([rows, cols] of tiles), after a thumbnail.

    `merge` says how the tiles' tokens are put together: `flat` one after the other, `spatial` as one map, `spatial_unpad`
    as one map without the border, each row ended by LLaVA-1.6's ``image_newline``: the checkpoint's, or of the safetensors
    file `newline`, which a saved model has.
    """

    grids: Annotated[list[Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]], Field(min_length=1)]
    merge: Literal["flat", "spatial", "spatial_unpad"] = "flat"
    newline: str | None = None


class ImagesConfig(Section):
    """Pixels before the tower. `aspect: pad` squares the picture with the processor's mean colour first."""

    aspect: Literal["square", "pad"] = "square"
    tiles: TilesConfig | None = None
    anyres: AnyresConfig | None = None
    max_pixels: PositiveInt | None = None

    @pydantic.model_validator(mode="after")
    def _one_way_to_tile(self) -> ImagesConfig:
        if self.tiles is not None and self.anyres is not None:
            raise ValueError("`tiles` and `anyres` are two ways to cut a picture; leave one out, or set it to null")
        return self

    @property
    def most_tiles(self) -> int:
        """The most pictures that the tower sees for one."""
        if self.anyres is not None:
            return 1 + max(rows * cols for rows, cols in self.anyres.grids)
        return 1 if self.tiles is None else self.tiles.max + int(self.tiles.thumbnail and self.tiles.max > 1)

    def at_most(self, tiles: int) -> ImagesConfig:
        """The same with no more than `tiles` tiles, the thumbnail not counted. Raises ConfigError where none is left."""
        if self.anyres is not None:
            grids = [grid for grid in self.anyres.grids if grid[0] * grid[1] <= tiles]
            if not grids:
                least = min(rows * cols for rows, cols in self.anyres.grids)
                raise ConfigError(f"--max-tiles {tiles}: this checkpoint's smallest grid has {least} tiles")
            return self.model_copy(update={"anyres": self.anyres.model_copy(update={"grids": grids})})
        if self.tiles is None:
            return self
        return self.model_copy(update={"tiles": self.tiles.model_copy(update={"max": tiles})})


class PromptConfig(Section):
    """`template: chat` is the tokenizer's own; the others are conversation formats of other projects, without their
    system texts. `question` is the default one."""

    template: Literal["chat", "plain", "qwen2p5_instruct", "mixtral_two", "nemo", "vicuna_v1", "mistral_instruct"] = (
        "chat"
    )
    system: str | None = None
    question: str = "What is this?"


class GenerationConfig(Section):
    """`temperature: 0` decodes greedily."""

    max_new_tokens: PositiveInt = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class TrainingConfig(Section):
    """Projector alignment (``vita train``); tower and language model stay frozen.

    `variants`: how many altered copies (cropped, rescaled, sharpened, blurred, re-compressed) of each photo are encoded
    beside the photo itself. `warm_start_steps`: steps, of `warm_start_batch` photos, that regress the projected tokens
    onto the embeddings of the caption's words before the language model is run at all. `moment_jitter`: with several data
    sets, how far (0 to 1) a photo's features may be moved to have another set's mean and deviation in every channel, so
    that how sharp a set's photos are does not tell what they show. `held_out`: the share of photos kept for the score.
    """

    steps: PositiveInt = 800
    batch_size: PositiveInt = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warm_start_steps: Annotated[int, Field(ge=0)] = 400
    warm_start_batch: PositiveInt = 256
    warm_start_learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    variants: Annotated[int, Field(ge=0)] = 3
    moment_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: int = 0
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 50


class Config(Section):
    """Everything of one model. Without `llm` it is a tower alone. `device: auto` is the first accelerator, else the CPU."""

    tower: TowerConfig
    projector: ProjectorConfig = ProjectorConfig()
    llm: LLMConfig | None = None
    images: ImagesConfig = ImagesConfig()
    prompt: PromptConfig = PromptConfig()
    generation: GenerationConfig = GenerationConfig()
    training: TrainingConfig = TrainingConfig()
    device: str = "auto"


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read, extend, override and validate a config.

    `overrides` are ``"tower.select_layer=-1"`` strings; paths in them are relative to the working directory, paths in a
    file to that file. Raises ConfigError, its message starting ``file:line:column:``.
    """
    document = read_config(path, overrides)
    return validate(Config, document.data, document.marks)


def config_from(data: Mapping[str, Any], overrides: Sequence[str], name: str) -> Config:
    """Plain sections as a config, `overrides` applied as in `load_config`; `name` is what messages call it."""
    document = overridden(Document(dict(data), {(): Mark(name)}), overrides)
    return validate(Config, document.data, document.marks)
