"""Plan the stages of a training: tokens, FLOPs, and memory per GPU, computed without weights or torch.

With F, the FLOPs of a part's forward pass, a step costs 3 F for a part that is trained (forward, gradient of its input, gradient
of its weights), 2 F for a frozen part that a gradient passes, and F for the others (arXiv 2001.08361, section 2.1: the
backward pass costs twice the forward pass). ``checkpointing`` adds F where a gradient passes (arXiv 1604.06174). Each sample
counts with one picture of the most tiles and with ``max_length`` tokens. The language model's attention scores do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vita_core.config.training import StageConfig
from vita_core.planning.plan import Plan
from vita_core.planning.resolution import Resolved
from vita_core.planning.trained import Part, PartPlan, State, part_plans, parts_of

__all__ = ["PARALLEL", "RankMemory", "StagePlan", "plan_stages", "rank_memory"]

PARALLEL = ("ddp", "fsdp2", "zero3")
"""The values of ``training.parallel``."""
BLOCK_VALUES = 17
"""Values of one token and channel that a block keeps for its backward pass (arXiv 2205.05198, equation 2: 34 bytes with 2 bytes a
value). The scores of the attention do not count: the fused kernels do not keep them."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one GPU between the forward and the backward pass: of weights, gradients, states of AdamW, and activations.

    The first three are exact. They count no buffers of communication and no temporary copies. `activations` is an estimate:
    the blocks through which a gradient passes, and the logits.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All four together."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class StagePlan:
    """The costs of one stage. A step has `samples` samples of up to `tokens` tokens together, of which up to `visual` are visual.

    `limit` is what limits the tokens of a sample: ``max_length``, the ``context`` of the language model, or only the ``picture``.
    `parts` says what is trained, `memory` what one of `processes` GPUs holds for each of `PARALLEL`. `unknown` are the parts
    whose numbers of trained parameters are not known; `memory` is then empty and `flops` None. `flops` are those of a step of
    all processes together.
    """

    name: str
    processes: int
    samples: int
    tokens: int
    visual: int
    limit: str
    parts: tuple[PartPlan, ...]
    flops: int | None
    memory: Mapping[str, RankMemory]
    unknown: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita plan --json`` prints it."""
        return asdict(self)


def plan_stages(resolved: Resolved, plan: Plan, stages: Sequence[StageConfig], processes: int = 1) -> list[StagePlan]:
    """Plan the stages of a training on so many GPUs. `plan` is that of `resolved`, and `stages` are checked already."""
    made: list[StagePlan] = []
    state = State.of(resolved, parts_of(resolved, plan.stages, 0))
    for stage in stages:
        length, limit = _length(resolved, plan, stage)
        parts = parts_of(resolved, plan.stages, length)
        plans = part_plans(parts, stage.train.trained, state, recomputed=stage.checkpointing)
        unknown = tuple(part.part for part in plans if part.trained is None or part.flops is None)
        activations = _activations(resolved, parts, plans, stage, length - min(plan.tokens, length), processes)
        memory = {
            parallel: rank_memory(plans, parallel, processes, stage.precision, activations)
            for parallel in (() if unknown else PARALLEL)
        }
        flops = None if unknown else stage.batch_size * sum(part.flops or 0 for part in plans)
        tokens, visual = stage.batch_size * length, stage.batch_size * min(plan.tokens, length)
        made.append(
            StagePlan(
                stage.name, processes, stage.batch_size, tokens, visual, limit, tuple(plans), flops, memory, unknown
            )
        )
    return made


def rank_memory(
    parts: Sequence[PartPlan], parallel: str, processes: int, precision: str, activations: int = 0
) -> RankMemory:
    """Return the memory of one of `processes` GPUs.

    ``ddp`` keeps everything on each GPU, and ``fsdp2`` shares everything: trained weights in float32, frozen ones in their own
    dtype. ``zero3`` shares as DeepSpeed does (arXiv 1910.02054): with half precision, weights and gradients have 2 bytes a
    value. Its optimiser keeps a copy of the trained weights in float32 beside AdamW's two moments. Shares are rounded up.
    """
    trained = sum(part.trained or 0 for part in parts)
    weights, gradients, states = sum(part.weight_bytes or 0 for part in parts), 4 * trained, 8 * trained
    if parallel == "zero3":
        states += 4 * trained
        if precision != "float32":
            weights, gradients = 2 * sum(part.parameters or 0 for part in parts), 2 * trained
    share = 1 if parallel == "ddp" else processes
    return RankMemory(-(-weights // share), -(-gradients // share), -(-states // share), activations)


def _length(resolved: Resolved, plan: Plan, stage: StageConfig) -> tuple[int, str]:
    """Return the largest number of tokens of a sample, and what limits it; without a limit, that of the picture alone."""
    context = None if resolved.llm is None else resolved.llm.shape().context
    limits = {"max_length": stage.max_length, "context": context}
    return min(((most, name) for name, most in limits.items() if most is not None), default=(plan.tokens, "picture"))


def _activations(
    resolved: Resolved, parts: Sequence[Part], plans: Sequence[PartPlan], stage: StageConfig, text: int, processes: int
) -> int:
    """Estimate the bytes of the activations that one GPU keeps for the backward pass of the samples it takes at once."""
    value, passed = 4 if stage.precision == "float32" else 2, {plan.part: plan.blocks for plan in plans}
    kept = 0
    for part in parts:
        blocks = passed.get(part.name, 0)
        values = blocks + BLOCK_VALUES if stage.checkpointing and blocks else blocks * BLOCK_VALUES
        kept += values * part.tokens * part.width * value
    assert resolved.llm is not None
    words: int = resolved.llm.checkpoint_config.get("vocab_size", 0)
    kept += text * words * (value + 8)  # the logits, and in float32 once more with their gradient
    return kept * stage.batch_size // (stage.accumulate * processes)
