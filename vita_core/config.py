"""What a config may say, validated: every key with its type and default. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, PositiveInt, Tag

from vita_core.configfiles import read_config
from vita_core.validation import Section, validate

__all__ = [
    "Config",
    "LLMConfig",
    "MLPOptions",
    "ProjectorConfig",
    "TowerConfig",
    "TrainingConfig",
    "load_config",
]

DType = Literal["float32", "float16", "bfloat16"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"]
NOT_BUILT = {"compile": False, "max_batch": None, "preprocess": "exact"}
"""Tower keys that are decided but not built yet, and the only value accepted until then."""


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
    """The vision tower. A key left at None takes the default of the tower's family (see ``vita towers``)."""

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
    dtype: DType = "float32"
    attention: Attention = "auto"
    compile: bool = False
    delay_load: bool = False
    layers: Literal["needed", "all"] = "needed"
    preprocess: Literal["exact", "fast"] = "exact"
    max_batch: PositiveInt | None = None
    check_finite: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _refuse_unbuilt(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key, only in NOT_BUILT.items():
                if key in data and data[key] != only:
                    raise ValueError(f"`{key}: {data[key]}` is not built yet; leave {key!r} out")
        return data


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


class ImagesConfig(Section):
    """Pixels before the tower. `aspect: pad` squares the picture with the processor's mean colour first."""

    aspect: Literal["square", "pad"] = "square"
    tiles: TilesConfig | None = None
    max_pixels: PositiveInt | None = None


class PromptConfig(Section):
    """`template: chat` is the tokenizer's own; `plain` is picture, question, newline. `question` is the default one."""

    template: Literal["chat", "plain"] = "chat"
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
    onto the embeddings of the caption's words before the language model is run at all. `held_out`: the share of photos
    kept for the score.
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
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: int = 0
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 50


class Config(Section):
    """Everything of one model. `device: auto` is the first accelerator, else the CPU."""

    tower: TowerConfig
    projector: ProjectorConfig = ProjectorConfig()
    llm: LLMConfig
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
