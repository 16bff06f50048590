"""The schema of ``training:``: one flat stage that trains the projector, or ``stages``. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic
from pydantic import Discriminator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Tag

from vita_core.config.validation import Section, written

__all__ = ["PARTS", "CacheConfig", "LoraSettings", "PartSettings", "StageConfig", "TrainedParts", "TrainingConfig"]

PARTS = ("tower", "reduce", "projector", "llm")
"""The parts of a model that a stage may train."""


class LoraSettings(Section):
    """Low-rank adapters (arXiv 2106.09685) on the linear layers of a part. `alpha` defaults to twice the `rank`.

    `targets` are the ends of the names of the layers, by default all linear layers of the part but the output layer.
    """

    rank: PositiveInt = 16
    alpha: PositiveFloat | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] | None = None


class PartSettings(Section):
    """How a stage trains a part: `full`, by `lora`, or block `from_layer` (1 = the first) and all blocks behind it.

    `learning_rate` is that of this part, if it is another than the stage's. Of several encoders (``tower.towers``), `towers`
    are the places of those that are trained, by default all; `from_layer` counts the blocks of each.
    """

    full: Literal[True] | None = None
    lora: LoraSettings | None = None
    from_layer: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    towers: Annotated[list[NonNegativeInt], Field(min_length=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_way(self) -> PartSettings:
        stated = [key for key in ("full", "lora", "from_layer") if getattr(self, key) is not None]
        if len(stated) != 1:
            found = f"{' and '.join(stated)} exclude each other" if stated else "it does not say how to train the part"
            raise ValueError(f"{found}. Try: one of `full: true`, `lora: {{rank: 16}}` and `from_layer: 1`")
        return self

    @property
    def words(self) -> str:
        """The way in words, for a table: ``LoRA, rank 16``."""
        of = "" if self.towers is None else f" of tower {' and '.join(map(str, self.towers))}"
        if self.lora is not None:
            return f"LoRA, rank {self.lora.rank}{of}"
        return f"full{of}" if self.from_layer is None else f"from layer {self.from_layer}{of}"


Part = Annotated[
    Annotated[Literal["frozen", "full"], Tag("(word)")] | Annotated[PartSettings, Tag("(section)")],
    Discriminator(lambda value: "(section)" if isinstance(value, Mapping | PartSettings) else "(word)"),
]


class TrainedParts(Section):
    """Which parts of the model a stage trains: ``frozen`` (the default), ``full``, or a section of `PartSettings`."""

    tower: Part = "frozen"
    reduce: Part = "frozen"
    projector: Part = "frozen"
    llm: Part = "frozen"

    @property
    def trained(self) -> dict[str, PartSettings]:
        """The settings of each part that is not frozen."""
        stated = {part: getattr(self, part) for part in PARTS}
        whole = PartSettings(full=True)
        return {part: whole if how == "full" else how for part, how in stated.items() if how != "frozen"}


class StageConfig(Section):
    """One stage of a training.

    `data` are names of the section ``data:``, by default all. It takes `epochs` (one, if neither is set) or `steps`.
    `batch_size` counts the samples of one step of all processes together; `accumulate` cuts it into so many parts, one after
    the other. `warmup` is the share of the steps in which the learning rate rises. `clip` is the largest norm of the
    gradient. The held-out loss is computed every `eval_steps` and at the end; with `best`, the result is that of the step
    with the lowest one, else that of the last step. `precision` is that of the computation; trained weights stay in float32.
    `checkpointing` computes activations again instead of keeping them. `prompt` is the template of this stage. Samples of
    more than `max_length` tokens are rejected. `group_by_length` puts samples of similar length into a batch.
    """

    name: Annotated[str, written(r"^[A-Za-z0-9_.-]+$", "letters, digits and the characters _ . -")]
    train: TrainedParts
    data: str | Annotated[list[str], Field(min_length=1)] | None = None
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    learning_rate: PositiveFloat
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpointing: bool = False
    prompt: str | None = None
    max_length: PositiveInt | None = None
    group_by_length: bool = False
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 100
    best: bool = False

    @pydantic.model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("'epochs' and 'steps' exclude each other. Try: one of them")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"'accumulate: {self.accumulate}' does not divide 'batch_size: {self.batch_size}'. Try: a divisor of it"
            )
        return self


class CacheConfig(Section):
    """The cache of what frozen towers compute of the pictures: a directory of at most `max_gb` GB (10^9 bytes).

    `path` is by default ``work/cache`` in the directory of the run. Several runs may share it.
    """

    path: str | None = None
    max_gb: PositiveFloat = 20.0


Cache = Annotated[
    Annotated[Literal["auto", False], Tag("(word)")] | Annotated[CacheConfig, Tag("(section)")],
    Discriminator(lambda value: "(section)" if isinstance(value, Mapping | CacheConfig) else "(word)"),
]


class TrainingConfig(Section):
    """Training (``vita train``). Without `stages`, it trains the projector and reductions that learn; the rest stays frozen.

    With `stages`, they run one after the other. Of the keys here, only `parallel`, `cache`, `keep`, `report_to` and `seed` then
    have a meaning. `parallel` is how several processes share the work. `cache` keeps what frozen towers compute: ``auto`` of
    the pictures that are seen more than once, a section of all, false of none. `keep` is the number of checkpoints that are
    kept, besides the weights with the lowest held-out loss. `report_to` are programs that show the course of a training,
    besides ``metrics.jsonl``.

    `variants` is the number of altered copies (cropped, rescaled, sharpened, blurred, re-compressed) of each photo that are
    encoded in addition to the photo. `warm_start_steps` steps, each of `warm_start_batch` photos, first regress the
    projected tokens onto the embeddings of the caption's words, without the language model. `moment_jitter` (0 to 1) is how
    far, with several data sets, the mean and deviation of a photo's features are moved towards those of another set, so
    that the sharpness of a set's photos does not reveal their content. `held_out` is the share kept for the score. With
    `best`, the result is that of the step with the lowest held-out loss.
    """

    steps: PositiveInt = 800
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 20
    weight_decay: NonNegativeFloat = 0.01
    warm_start_steps: NonNegativeInt = 400
    warm_start_batch: PositiveInt = 256
    warm_start_learning_rate: PositiveFloat = 2e-3
    variants: NonNegativeInt = 3
    moment_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 50
    keep: PositiveInt = 2
    best: bool = False
    report_to: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default_factory=list)
    parallel: Literal["ddp", "fsdp2", "zero3"] = "ddp"
    cache: Cache = "auto"
    stages: Annotated[list[StageConfig], Field(min_length=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _own_names(self) -> TrainingConfig:
        if self.stages is None:
            return self
        if self.best:
            raise ValueError("'best' is a key of each stage. Try: `best: true` in a stage of `stages`")
        names = [stage.name for stage in self.stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two stages have the name {twice!r}. Try: another name for one of them")
        return self
