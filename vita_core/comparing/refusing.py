"""What configs may not say, or not say differently, if they are to be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vita_core.config.schema import Config
from vita_core.config.training import StageConfig, TrainingConfig
from vita_core.errors import ConfigError

__all__ = ["differing", "of_training", "refuse_best", "refuse_own"]

FLAT = ("steps", "batch_size", "warm_start_steps", "warm_start_batch", "variants")
STAGE = ("steps", "epochs", "batch_size", "prompt", "max_length", "group_by_length")
"""Keys of a training, and of one of its stages, that say how much is trained on, and in which order."""
FLAT_WAY = ("warmup_steps", "weight_decay", "warm_start_learning_rate", "moment_jitter")
STAGE_WAY = ("train", "schedule", "warmup", "weight_decay", "clip", "precision")
"""Those that say how. They differ only where a sweep is over them."""
OWN = ("training.seed", "training.held_out", "data")
"""What a comparison sets itself."""


def refuse_own(overrides: Sequence[str]) -> None:
    """Raise ConfigError for overrides of what a comparison sets itself."""
    for text in overrides:
        key = text.partition("=")[0]
        if key in OWN or key.startswith("data."):
            raise ConfigError(f"{key}: the comparison sets it. Try: --seeds, --data, or leave it out")


def refuse_best(config: Config) -> None:
    """Raise ConfigError for results that depend on held-out samples: a comparison trains on the whole training split."""
    ways = {"training.best": config.training.best}
    ways |= {f"training.stages.{at}.best": stage.best for at, stage in enumerate(config.training.stages or ())}
    for key, best in ways.items():
        if best:
            raise ConfigError(
                f"{key}: a comparison trains on its whole training split, with nothing held out. Try: `--set {key}=false`"
            )


def of_training(
    key: str,
    mine: TrainingConfig | StageConfig,
    theirs: TrainingConfig | StageConfig,
    over: Sequence[str],
    name: str,
) -> Iterator[tuple[str, str]]:
    """Yield the keys of a training or a stage that differ from those of the config `name`, each with what to do.

    `over` are the values of a sweep: of the keys that say how, those that it is over may differ.
    """
    amount, way = (STAGE, STAGE_WAY) if isinstance(mine, StageConfig) else (FLAT, FLAT_WAY)
    swept = [text.partition("=")[0] for text in over]
    kept = {part for part in way if not any(f"{one}.".startswith(f"{key}.{part}.") for one in swept)}
    own, other = (each.model_dump(mode="json", include={*amount, *kept}) for each in (mine, theirs))
    yield from differing(key, own, other, name)


def differing(key: str, own: Mapping[str, Any], other: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a section that differ from those of the config `name`."""
    for part in own:
        if own[part] != other[part]:
            mine, theirs = (json.dumps(value, ensure_ascii=False) for value in (own[part], other[part]))
            yield f"{key}.{part}: {mine}, but {theirs} in {name}", f"`--set {key}.{part}=VALUE` for all of them"
