"""What fusion.py measures and docs/combine.md shows, without torch: every registered reduction, and the projectors that change
the number of tokens, for the 24 x 24 tokens of 1024 channels of CLIP-L/14-336."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vita_core.config.schema import ProjectorConfig, TowerConfig
from vita_core.planning.projectors import ResolvedProjector, resolve_projector
from vita_core.planning.reductions import ResolvedReduction, resolve_reductions
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import ProjectorSpec

SIZES = (24, 24, 1024)
"""Rows, columns and channels."""
WIDTH = 3584
"""The width that projectors map to, that of a Qwen2.5 7B."""
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "pixel_shuffle": [{"scale_factor": 0.5}],
    "pool": [{"window": 2}, {"window": 2, "kind": "max"}],
    "interpolate": [{"grid": 12}],
    "resampler": [{"queries": 144}, {"layout": "idefics2", "queries": 64}],
    "qformer": [{"queries": 32}],
    "c_abstractor": [{"queries": 144}],
    "token_merging": [{"tokens": 144}],
    "prune": [{"keep": 144}],
}
"""The options that are shown for each reduction. One that is not listed has those of the `example` of its spec."""
INNER: dict[str, tuple[dict[str, Any], tuple[float, ...] | None]] = {
    "token_merging": ({"per_block": 16}, None),
    "prune": ({"ratio": 0.7}, (1 / 4, 1 / 2, 3 / 4)),
}
"""For each reduction that runs inside the encoder, its options there, and in which of the blocks (None: in all)."""


@dataclass(frozen=True)
class Step:
    """A reduction with its options, as a config states it."""

    config: Mapping[str, Any]
    resolved: ResolvedReduction

    def __str__(self) -> str:
        """The step as YAML on one line."""
        return written(self.config)


def written(value: Any) -> str:
    """Return plain data as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def steps() -> list[Step]:
    """Return every registered reduction."""
    found = []
    for registered in registry().all(ReductionSpec):
        name = registered.spec.name
        for options in OPTIONS.get(name, [dict(getattr(registered.spec, "example", {}))]):
            step = {"type": name, **options}
            config = TowerConfig.model_validate({"weights": "clip", "reduce": step})
            found.append(Step(step, *resolve_reductions(config, SIZES)))
    return found


def inner_steps(blocks: int) -> list[dict[str, Any]]:
    """Return every registered reduction that runs inside the encoder, as ``tower.reduce`` of an encoder of so many blocks."""
    found = []
    for registered in registry().all(ReductionSpec):
        spec = registered.spec
        if spec.inside is not None:
            options, places = INNER.get(spec.name, (dict(getattr(spec, "example", {})), (1 / 2,)))
            chosen = (
                range(1, blocks + 1) if places is None else sorted({max(1, int(place * blocks)) for place in places})
            )
            found.append({"type": spec.name, **options, "blocks": list(chosen)})
    return found


def projectors() -> list[ResolvedProjector]:
    """Return every registered projector that changes the number of tokens, with its default options."""
    names = [found.spec.name for found in registry().all(ProjectorSpec) if found.spec.tokens is not None]
    return [resolve_projector(ProjectorConfig(type=name), SIZES[-1], WIDTH) for name in names]
