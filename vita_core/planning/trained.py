"""What a stage of a training costs in each part of a model: its parameters, their bytes, and FLOPs. No torch, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vita_core.config.training import PartSettings
from vita_core.planning.encoders import ResolvedTower
from vita_core.planning.inside import block_macs
from vita_core.planning.resolution import Resolved
from vita_core.planning.stages import BYTES, PlannedStage, tower_stages
from vita_core.untrusted.tensorfiles import tensor_shapes
from vita_core.weights.shards import choose_file

__all__ = ["Part", "PartPlan", "State", "part_plans", "parts_of"]

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Part:
    """A part of a model. Its multiply-accumulates (`macs`) and `tokens` are those of one sample.

    used: the parameters that a feature depends on. Only they get a gradient.
    Of its `blocks`, `run` are run. `sizes` are the parameters and multiply-accumulates of each of these, and `linears` are the
    linear layers of every block (name, inputs, outputs); both are empty if they are not known. `first_macs` are those before
    the first block, and `norm` is the number of parameters behind the last one that are trained with it.
    """

    name: str
    parameters: int
    weight_bytes: int
    macs: int
    used: int
    blocks: int = 0
    run: int = 0
    tokens: int = 0
    width: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    first_macs: int = 0
    linears: tuple[tuple[str, int, int], ...] = ()
    norm: int = 0


@dataclass(frozen=True)
class PartPlan:
    """How a stage trains a part: its parameters, those of them that get a gradient, and bytes of its weights on one process.

    `flops` are those of one sample, forward and backward. They and the numbers are None if they are not known. `blocks` is
    the number of blocks that a gradient passes, for which activations are kept.
    """

    part: str
    how: str
    parameters: int | None
    trained: int | None
    weight_bytes: int | None
    flops: int | None
    blocks: int


@dataclass
class State:
    """What was before a stage: the parts in float32, and in each part with an adapter the parameters of it in a block."""

    wide: set[str]
    adapters: dict[str, int]

    @classmethod
    def of(cls, resolved: Resolved, parts: Iterable[Part]) -> State:
        """Return the state before the first stage, with the adapters that the config names. Their headers are read."""
        projector, llm = resolved.language("vita plan")
        stated = {
            "tower": resolved.tower.settings.adapter,
            "projector": projector.settings.adapter,
            "llm": llm.settings.adapter,
        }
        found = {name: Path(place) for name, place in stated.items() if place is not None}
        sizes = {name: sum(math.prod(shape) for _, shape in _tensors(place)) for name, place in found.items()}
        return cls(set(), {part.name: sizes[part.name] // max(1, part.blocks) for part in parts if part.name in sizes})


def _tensors(adapter: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    names = [entry.name for entry in adapter.iterdir()]
    return tensor_shapes([adapter / choose_file(names, ADAPTER_FILES, str(adapter))])


def parts_of(resolved: Resolved, planned: Sequence[PlannedStage], length: int) -> list[Part]:
    """Return the parts of a model in the order they run. `planned` are the stages of its plan. A text has `length` tokens."""
    _, llm = resolved.language("vita plan")
    shape, tower, by_name = llm.shape(), resolved.tower, {stage.stage: stage for stage in planned}
    projector, value, layers = by_name["projector"], BYTES[llm.settings.dtype], llm.layers or 0
    count = projector.parameters
    block = sum(into * out for _, into, out in shape.linears)
    weights = sum(step.parameters for step in tower.geometry.reductions)
    reduced = sum(stage.flops for stage in planned if stage.stage == "reduce") // 2
    return [
        _tower(tower, planned[0].shape[0]),
        Part("reduce", weights, weights * BYTES[tower.settings.dtype], reduced, weights),
        Part("projector", count, count * value, projector.flops // 2, count, blocks=1, run=1),
        Part(
            "llm",
            shape.parameters,
            shape.parameters * value,
            shape.macs_per_token * length,
            shape.parameters,
            layers,
            layers,
            length,
            shape.hidden_size,
            () if shape.block_parameters is None else ((shape.block_parameters, block * length),) * layers,
            0,
            shape.linears,
            shape.hidden_size,
        ),
    ]


def _tower(tower: ResolvedTower, tiles: int) -> Part:
    """Return the part of an encoder, or of several, whose blocks count as not known."""
    planned = tower_stages(tower, tiles)[0]
    several: Sequence[ResolvedTower] = tower.parts
    if several:
        used = sum(_tower(one, tiles).used for one in several)
        return Part("tower", planned.parameters, planned.weight_bytes, planned.flops // 2, used)
    shape, geometry, run = tower.shape, tower.geometry, max(tower.geometry.layers)
    pictures, norm = tiles * geometry.crops, (shape.norm_parameters or 0) if tower.settings.norm else 0
    stages, (rows, cols) = shape.stages[: run + 1], shape.stages[run].grid
    macs = block_macs(shape, geometry.patches) if geometry.inside else [stage.macs * geometry.crops for stage in stages]
    return Part(
        "tower",
        planned.parameters,
        planned.weight_bytes,
        planned.flops // 2,
        sum(stage.parameters for stage in stages) + norm,
        geometry.blocks,
        run,
        (rows * cols * shape.steps + shape.prefix_tokens) * pictures,
        stages[-1].channels,
        tuple((stage.parameters, own * tiles) for stage, own in zip(stages, macs, strict=True))[1:],
        macs[0] * tiles,
        shape.linears,
        norm,
    )


def part_plans(
    parts: Iterable[Part], trained: Mapping[str, PartSettings], state: State, *, recomputed: bool
) -> list[PartPlan]:
    """Return how a stage trains each part, and update `state`, which the stages before it left.

    With `recomputed` (``checkpointing``), what the backward pass needs is computed twice.
    """
    plans, enters = [], False
    for part in parts:
        how = trained.get(part.name)
        if how is not None and how.lora is not None and part.linears:
            state.adapters.setdefault(part.name, _adapter(part, how))
        if how is not None and how.lora is None:
            state.wide.add(part.name)
        plans.append(_plan(part, how, state, enters, recomputed))
        enters = enters or how is not None
    return [plan for plan in plans if plan.part != "reduce" or plan.parameters]


def _adapter(part: Part, how: PartSettings) -> int:
    """Return the parameters of an adapter in one block: rank * (inputs + outputs) for each linear layer."""
    assert how.lora is not None
    ends = how.lora.targets
    chosen = [
        into + out
        for name, into, out in part.linears
        if ends is None or any(f".{name}".endswith(f".{end}") for end in ends)
    ]
    return how.lora.rank * sum(chosen)


def _plan(part: Part, how: PartSettings | None, state: State, enters: bool, recomputed: bool) -> PartPlan:
    """Return the plan of a part. `enters` is whether a part before it is trained, so that a gradient passes through."""
    adapter = state.adapters.get(part.name, 0)
    total = part.parameters + adapter * part.blocks
    size = (4 * part.parameters if part.name in state.wide else part.weight_bytes) + 4 * adapter * part.blocks
    extra = adapter * part.run * part.tokens
    forward, again = part.macs + extra, 1 if recomputed else 0
    passed = forward * (1 + again)  # the gradient of what it gets, and its activations once more
    if how is None:
        flops = 2 * (forward + (passed if enters else 0))
        return PartPlan(part.name, "frozen", total, 0, size, flops, part.run if enters else 0)
    if how.towers is not None or (how.lora is not None and not adapter):  # some encoders, layers that are not known
        return PartPlan(part.name, how.words, None, None, None, None, part.run)
    if how.lora is not None:
        return PartPlan(part.name, how.words, total, adapter * part.run, size, 2 * (forward + passed + extra), part.run)
    if how.from_layer is None:
        flops = 2 * (forward + passed + forward)
        return PartPlan(part.name, "full", total, part.used + adapter * part.run, size, flops, part.run)
    words, count = how.words, part.run - how.from_layer + 1
    if not part.sizes:
        return PartPlan(part.name, words, total, None, size, None, count)
    own = sum(macs for _, macs in part.sizes[how.from_layer - 1 :]) + count * adapter * part.tokens
    frozen = part.first_macs + sum(macs for _, macs in part.sizes[: how.from_layer - 1])
    passed = passed if enters else (forward - frozen) * (1 + again)
    tuned = sum(count for count, _ in part.sizes[how.from_layer - 1 :]) + count * adapter + part.norm
    return PartPlan(part.name, words, total, tuned, size, 2 * (forward + passed + own), part.run if enters else count)
