"""The schema of a config: every key with its type and default. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Discriminator, Field, PositiveInt, Tag
from pydantic_core import PydanticKnownError

from vita_core.config.configfiles import overridden, read_config
from vita_core.config.data import DataSetConfig
from vita_core.config.fused import check_keys
from vita_core.config.images import AnyresConfig, ImagesConfig, TilesConfig
from vita_core.config.prompts import GenerationConfig, PromptConfig
from vita_core.config.reductions import ReductionConfig
from vita_core.config.training import TrainingConfig
from vita_core.config.validation import Section, validate, written
from vita_core.untrusted.yamlfiles import Document, Mark

__all__ = [
    "AnyresConfig",
    "Config",
    "DataSetConfig",
    "GenerationConfig",
    "ImagesConfig",
    "LDPv2Options",
    "LLMConfig",
    "MLPOptions",
    "PatchMergerOptions",
    "ProjectorConfig",
    "PromptConfig",
    "TilesConfig",
    "TowerConfig",
    "TrainingConfig",
    "config_from",
    "load_config",
]

DType = Literal["float32", "float16", "bfloat16"]
TowerDType = Literal["auto", "float32", "float16", "bfloat16"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"]


Weights = Annotated[str, written(r"\S", "a directory, a file or a hub id")]
DEVICES = r"^(auto|cpu|cuda|mps|xpu|hpu|npu|mtia|xla|maia|privateuseone)(:\d{1,3})?$"
Device = Annotated[str, written(DEVICES, "`device: auto` or `device: cpu`, or a device of torch such as cuda:0")]
"""A device of torch. Whether the machine has it is found when a model is built."""


class S2Config(Section):
    """Scaling on Scales (arXiv 2403.13043). `scales` are picture sizes in pixels; the first is the encoder's own size."""

    scales: Annotated[list[PositiveInt], Field(min_length=1)]


class FreezeConfig(Section):
    """Train block `from_layer` (1 = the first), all blocks after it and the final norm. The rest stays frozen."""

    from_layer: PositiveInt


Freeze = Annotated[
    Annotated[bool, Tag("(flag)")] | Annotated[FreezeConfig, Tag("(section)")],
    Discriminator(lambda value: "(section)" if isinstance(value, Mapping | FreezeConfig) else "(flag)"),
]


Reduce = Annotated[
    Annotated[ReductionConfig, Tag("(step)")] | Annotated[list[ReductionConfig], Tag("(steps)")],
    Discriminator(lambda value: "(steps)" if isinstance(value, list) else "(step)"),
]


class TowerConfig(Section):
    """The vision tower. A key that is None takes the default of the tower's type (see ``vita towers --json``).

    `towers` are several encoders that work as one; each has keys as here, without `towers`. `combine` joins their features:
    ``channel`` concatenates them on channels, ``sum`` adds them, ``sequence`` puts the tokens of one behind the other's, and
    ``interleave`` gives a1 b1 a2 b2 .... For ``channel`` and ``sum``, features are resized to `grid`: that of the first part,
    or [rows, cols]. Beside `towers` stand only keys of the whole; reductions there come after the features are joined.
    `device` is that of a part, if it is another than the model's.

    `reduce` is a reduction of the tokens, or a list of them (see ``vita reductions``). `pixel_shuffle` and `pool` are short
    for two of them, which run first: ``{type: pixel_shuffle, scale_factor: 0.5}`` and ``{type: pool, grid: 12}``.

    `adapter` is a directory with a LoRA adapter, as peft and ``vita train`` write them, which is used beside the weights.

    `image_size` is the size of the encoder's pictures in pixels, a side or [height, width], if it is to be another than the
    checkpoint's: the table of positions is then interpolated.

    `dtype: auto` is bfloat16 if the device supports it in hardware, else float32. `attention: auto` is torch's
    ``scaled_dot_product_attention``. `compile` uses torch.compile: the first picture of each size takes longer, and a CPU
    needs a C++ compiler. `max_batch` is the largest number of pictures (tiles and S2 crops count) in one run of the
    encoder; by default a GPU runs all at once, and a CPU as many as fit in its cache. With gradients all run at once,
    because their activations are kept anyway. `preprocess: fast` takes less than half the time, and its pixels differ from
    the exact ones by at most 2 of 255 levels.
    """

    type: str | None = None
    towers: list[TowerConfig] | None = None
    combine: Literal["channel", "sequence", "interleave", "sum"] = "channel"
    grid: Literal["first"] | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = "first"
    weights: Weights | None = Field(default=None, validate_default=True)
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    select_layer: int | Annotated[list[int], Field(min_length=1)] | None = None
    select_feature: Literal["patch", "cls_patch", "cls"] | None = None
    norm: bool = False
    feature_scale: Annotated[float, Field(gt=0, le=1e6)] | None = None
    s2: S2Config | None = None
    pixel_shuffle: Annotated[float, Field(gt=0, le=1)] | Literal[False] | None = None
    pool: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    reduce: Reduce | None = None
    freeze: Freeze = True
    dtype: TowerDType = "float32"
    attention: Attention = "auto"
    compile: bool = False
    delay_load: bool = False
    image_size: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] | None = None
    layers: Literal["needed", "all"] = "needed"
    preprocess: Literal["exact", "fast"] = "exact"
    max_batch: PositiveInt | None = None
    check_finite: bool = False
    device: Device | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @pydantic.field_validator("weights")
    @classmethod
    def _of_one_encoder(cls, weights: str | None, others: pydantic.ValidationInfo) -> str | None:
        if weights is None and others.data.get("towers", ()) is None:
            raise PydanticKnownError("missing")
        return weights

    @pydantic.model_validator(mode="after")
    def _one_or_several(self) -> TowerConfig:
        check_keys(self, self.towers)
        return self


class ProjectorConfig(Section):
    """The projector, built in (such as ``mlp2x_gelu``) or of a plugin. Without `weights` it is untrained.

    `adapter` is a directory with a LoRA adapter, which is used beside the weights.
    """

    type: str = "mlp2x_gelu"
    weights: Weights | None = None
    adapter: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class MLPOptions(Section):
    """``projector.options`` of ``linear`` and ``mlpNx_gelu``.

    `input_norm` applies a LayerNorm to the tower's features, `input_gelu` then a GELU (of class scores, it keeps only the
    high ones). `hidden_size` is the width between the linear layers; it defaults to the language model's width. `norm_eps`
    is the epsilon of the LayerNorm.
    """

    input_norm: bool = False
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    input_gelu: bool = False
    hidden_size: int | None = None


class LDPv2Options(Section):
    """``projector.options`` of ``ldpv2``: the output's `grid`, as its side or as [rows, columns], in tokens."""

    grid: PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = 12


class PatchMergerOptions(Section):
    """``projector.options`` of ``patch_merger``: `spatial_merge_size` is the side of the blocks that become one token."""

    spatial_merge_size: PositiveInt = 2


class LLMConfig(Section):
    """The language model: a directory, a fetched asset or a hub id that ``AutoModelForCausalLM`` can load.

    `adapter` is a directory with a LoRA adapter, which is used beside the weights.
    """

    type: str = "auto"
    weights: Weights
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    dtype: DType = "float32"
    attention: Attention = "auto"


class Config(Section):
    """The config of one model, or without `llm` of a tower alone. `device: auto` is the first accelerator, else the CPU."""

    tower: TowerConfig
    projector: ProjectorConfig = ProjectorConfig()
    llm: LLMConfig | None = None
    images: ImagesConfig = ImagesConfig()
    prompt: PromptConfig = PromptConfig()
    generation: GenerationConfig = GenerationConfig()
    data: dict[str, DataSetConfig] = Field(default_factory=dict)
    training: TrainingConfig = TrainingConfig()
    device: Device = "auto"


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a config with the files that it extends, apply `overrides` (``"tower.select_layer=-1"``), and validate it.

    Paths in a file are relative to that file; paths in `overrides` are relative to the working directory. Raises ConfigError
    with messages that start with ``file:line:column:``.
    """
    document = read_config(path, overrides)
    return validate(Config, document.data, document.marks)


def config_from(data: Mapping[str, Any], overrides: Sequence[str], name: str) -> Config:
    """Return a config from plain sections and `overrides` (see `load_config`). Messages name it `name`."""
    document = overridden(Document(dict(data), {(): Mark(name)}), overrides)
    return validate(Config, document.data, document.marks)
