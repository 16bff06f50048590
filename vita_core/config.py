"""YAML -> validated config, with ``file:line:column`` before every message. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import Field, PositiveInt

from vita_core.errors import ConfigError, nearest
from vita_core.sources import expand
from vita_core.yamlfile import Document, Key, Mark, parse_value, read_yaml

__all__ = [
    "Config",
    "LLMConfig",
    "ProjectorConfig",
    "TowerConfig",
    "TrainingConfig",
    "config_from",
    "load_config",
    "shipped_configs",
    "validate",
]

DType = Literal["float32", "float16", "bfloat16"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"]
NOT_BUILT = {"compile": False, "max_batch": None, "check_finite": False, "preprocess": "exact"}
"""Tower keys that are decided but not built yet, and the only value accepted until then."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class S2Config(_Section):
    """Scaling on Scales (arXiv 2403.13043). `scales` are picture sizes in pixels, the first the encoder's own."""

    scales: Annotated[list[PositiveInt], Field(min_length=1)]


class TowerConfig(_Section):
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
    freeze: bool = True
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
            if isinstance(data.get("freeze"), Mapping):
                raise ValueError("`freeze: {from_layer: ...}` is not built yet; use `freeze: true` or `freeze: false`")
        return data


class ProjectorConfig(_Section):
    """The projector: ``linear``, ``mlpNx_gelu``, ``identity`` or a plugin's. Without `weights` it is untrained."""

    type: str = "mlp2x_gelu"
    weights: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class LLMConfig(_Section):
    """The language model: any ``AutoModelForCausalLM`` directory, fetched asset or hub id."""

    type: str = "auto"
    weights: str
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: DType = "float32"
    attention: Attention = "auto"


class TilesConfig(_Section):
    """InternVL-style tiles of the tower's size: at most `max`, and a thumbnail when there are several."""

    min: PositiveInt = 1
    max: PositiveInt = 12
    thumbnail: bool = True


class AnyresConfig(_Section):
    """LLaVA-1.6's tiles: the picture is fitted into the best of `grids` ([rows, cols] of tiles), after a thumbnail.

    `merge` says how the tiles' tokens are put together: `flat` one after the other, `spatial` as one map, `spatial_unpad`
    as one map without the border, each row ended by the checkpoint's ``image_newline``.
    """

    grids: Annotated[list[Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]], Field(min_length=1)]
    merge: Literal["flat", "spatial", "spatial_unpad"] = "flat"


class ImagesConfig(_Section):
    """Pixels before the tower. `aspect: pad` squares the picture with the processor's mean colour first."""

    aspect: Literal["square", "pad"] = "square"
    tiles: TilesConfig | None = None
    anyres: AnyresConfig | None = None
    max_pixels: PositiveInt | None = None

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


class PromptConfig(_Section):
    """`template: chat` is the tokenizer's own; the others are conversation formats of other projects, without their
    system texts. `question` is the default one."""

    template: Literal["chat", "plain", "qwen2p5_instruct", "mixtral_two", "nemo", "vicuna_v1", "mistral_instruct"] = (
        "chat"
    )
    system: str | None = None
    question: str = "What is this?"


class GenerationConfig(_Section):
    """`temperature: 0` decodes greedily."""

    max_new_tokens: PositiveInt = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class TrainingConfig(_Section):
    """Projector alignment (``vita train``); tower and language model stay frozen.

    `variants`: how many altered copies (cropped, rescaled, sharpened, blurred, re-compressed) of each photo are encoded
    beside the photo itself. `moment_jitter`: the chance that a sample's channel means and deviations are moved towards
    those of another group of the training features. `warm_start_steps`: steps, of `warm_start_batch` photos, that
    regress the projected tokens onto the embeddings of the caption's words before the language model is run at all.
    `held_out`: the share of photos kept for the score.
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
    moment_jitter: Annotated[float, Field(ge=0, le=1)] = 0.5
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05
    seed: int = 0
    eval_steps: PositiveInt = 100
    save_steps: PositiveInt = 50


class Config(_Section):
    """Everything of one model. `device: auto` is the first accelerator, else the CPU."""

    tower: TowerConfig
    projector: ProjectorConfig = ProjectorConfig()
    llm: LLMConfig
    images: ImagesConfig = ImagesConfig()
    prompt: PromptConfig = PromptConfig()
    generation: GenerationConfig = GenerationConfig()
    training: TrainingConfig = TrainingConfig()
    device: str = "auto"


PATH_KEYS: tuple[tuple[str, str], ...] = (("tower", "weights"), ("projector", "weights"), ("llm", "weights"))
Model = TypeVar("Model", bound=pydantic.BaseModel)


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package (in a wheel inside it, in a clone beside it)."""
    package = Path(__file__).parent
    inside, beside = package / "configs", package.parent / "configs"
    directory = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(directory.glob("*.yaml")) if path.stem != "base"}


def config_file(name: str | os.PathLike[str]) -> Path:
    """The file meant by CONFIG: a YAML file, a directory that ``train`` wrote, or the name of a shipped config."""
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return path / "config.yaml"
        raise ConfigError(f"{path} is a directory without a config.yaml; give a YAML file or what `vita train` wrote")
    if path.is_file():
        return path
    shipped = shipped_configs()
    if str(name) in shipped:
        return shipped[str(name)]
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(
        f"no config {str(name)!r}: neither a file nor a directory, nor a shipped one ({', '.join(shipped)})."
        f"{nearest(str(name), [*shipped, *beside])}"
    )


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read, extend, override and validate a config.

    `overrides` are ``"tower.select_layer=-1"`` strings; paths in them are relative to the working directory, paths in a
    file to that file. Raises ConfigError, its message starting ``file:line:column:``.
    """
    file = config_file(path)
    document = _read(file, ())
    data, marks = document.data, dict(document.marks)
    for override in overrides:
        _override(data, marks, override)
    return validate(Config, data, marks, str(file))


def config_from(data: Mapping[str, Any], overrides: Sequence[str], name: str) -> Config:
    """Plain sections as a config, `overrides` applied as in `load_config`; `name` is what messages call it."""
    sections, marks = dict(data), dict[Key, Mark]()
    for override in overrides:
        _override(sections, marks, override)
    return validate(Config, sections, marks, name)


def validate(
    model: type[Model], data: Mapping[str, Any], marks: Mapping[Key, Mark] | None = None, file: str = ""
) -> Model:
    """`data` as a `model`; every problem told in one ConfigError, a line each, with its place and the nearest key."""
    try:
        return model.model_validate(dict(data))
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        raise ConfigError("\n".join(dict.fromkeys(_problem(model, p, marks, file) for p in problems))) from None


def _read(file: Path, chain: tuple[Path, ...]) -> Document:
    """One file merged over what it ``extends:``, its paths made absolute."""
    file = Path(os.path.abspath(file))  # noqa: PTH100  # resolve() would follow links, and `extends:` is relative to the link
    if file in chain:
        raise ConfigError(f"{file}:1:1: `extends:` goes in a circle: {' -> '.join(map(str, [*chain, file]))}")
    document = read_yaml(file)
    data, marks = dict(document.data), dict(document.marks)
    for section, key in PATH_KEYS:
        value = data.get(section)
        if isinstance(value, dict) and isinstance(value.get(key), str):
            data[section] = {**value, key: expand(value[key], file.parent)}
    if "extends" not in data:
        return Document(data, marks)
    parent = data.pop("extends")
    if not isinstance(parent, str) or not (file.parent / parent).is_file():
        siblings = [path.name for path in file.parent.glob("*.yaml")]
        raise ConfigError(f"{marks[('extends',)]}: extends: no such file {parent!r}.{nearest(str(parent), siblings)}")
    base = _read(file.parent / parent, (*chain, file))
    return Document(_merge(base.data, data), {**base.marks, **marks})


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(data: dict[str, Any], marks: dict[Key, Mark], override: str) -> None:
    name, equals, text = override.partition("=")
    where = f"--set {name}"
    key: Key = tuple(name.split("."))
    if not equals or not all(key):
        raise ConfigError(f"--set {override}:1:1: write it as key.key=value, such as tower.select_layer=-1")
    value = parse_value(text, where)
    if key in PATH_KEYS and isinstance(value, str):
        value = expand(value, Path.cwd())
    target = data
    for part in key[:-1]:
        child = target.get(str(part))
        target[str(part)] = dict(child) if isinstance(child, dict) else {}
        target = target[str(part)]
    target[str(key[-1])] = value
    for depth in range(1, len(key) + 1):
        marks.setdefault(key[:depth], Mark(where))
    marks[key] = Mark(where)


def _problem(model: type[pydantic.BaseModel], problem: Any, marks: Mapping[Key, Mark] | None, file: str) -> str:
    # pydantic appends the branch of a union ("int", "list[int]", ...) to the place; marks know only real keys
    loc = tuple(problem["loc"])
    known = loc
    while marks is not None and known and known not in marks:
        known = known[:-1]
    prefix = "" if marks is None else f"{marks.get(known, Mark(file))}: "
    names = ".".join(map(str, known if marks is not None and known else loc))
    kind, message = problem["type"], str(problem["msg"])
    if kind == "extra_forbidden":
        section = _section(model, loc[:-1])
        keys = list(section.model_fields) if section else []
        where = f" in {'.'.join(map(str, loc[:-1]))!r}" if loc[:-1] else ""
        return f"{prefix}unknown key {loc[-1]!r}{where}.{nearest(str(loc[-1]), keys)} Valid keys: {', '.join(keys)}"
    if kind == "missing":
        return f"{prefix}required key {'.'.join(map(str, loc))!r} is missing"
    if kind == "value_error":
        return f"{prefix}{names}: {message.removeprefix('Value error, ')}"
    return f"{prefix}{names}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _section(model: type[pydantic.BaseModel], loc: tuple[Any, ...]) -> type[pydantic.BaseModel] | None:
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            return None
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)]
        if not nested:
            return None
        model = nested[0]
    return model
