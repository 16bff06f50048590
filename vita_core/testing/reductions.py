"""The reduction under test, and the contracts that only reductions have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vita_core.config.reductions import ReductionConfig
from vita_core.planning.options import validated_options
from vita_core.planning.reductions import ResolvedReduction
from vita_core.plugins.reductions import ReductionSpec, Sizes
from vita_core.plugins.registry import registry
from vita_core.testing.kit import holds
from vita_core.testing.module_checks import expect_planned
from vita_core.testing.modules import GRIDS, Case, TokenModule, options_of, refused
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.towers.measuring import count_macs
from vita_core.towers.reducing import build_reduction

__all__ = ["Reduction", "open_reduction"]

WIDTHS = (32, 128, 1024)
"""The widths of the tokens that are tried."""
MACS = 0.01
"""The largest allowed error of the multiply-accumulates that a spec states, as a fraction of those that are counted."""


@dataclass(frozen=True)
class Reduction(TokenModule):
    """A reduction under test."""

    kind: ClassVar[str] = "reduction"
    spec: ReductionSpec

    def resolved(self, sizes: Sizes) -> ResolvedReduction:
        """Return the reduction for tokens of these sizes. Raises VitaError if it refuses them."""
        settings = ReductionConfig(type=self.name)
        step = ResolvedReduction(self.spec, self.owner, self.kind, settings, self.options, sizes, sizes)
        step.sizes(sizes)
        return step

    def find_cases(self) -> tuple[list[Case], str]:
        """Ask the rule about each grid, and about tokens without one, of the first width that it accepts."""
        reason = ""
        for width in WIDTHS:
            found = []
            places: list[Sizes] = [*GRIDS, *([] if self.spec.spatial else [(64,)])]
            for place in places:
                after, refusal = refused(lambda sizes: self.resolved(sizes).sizes(sizes), (*place, width))
                reason = refusal or reason
                if after is not None:
                    *kept, after_width = after
                    grids = [(sides[0], sides[1]) if len(sides) == 2 else None for sides in (place, kept)]
                    found.append(Case(grids[0], math.prod(place), width, grids[1], math.prod(kept), after_width))
            if found:
                return found, reason
        return [], reason

    def planned(self, case: Case) -> ResolvedReduction:
        """Return the reduction for a case."""
        return self.resolved((*(case.grid or (case.tokens,)), case.width))

    def planned_parameters(self, case: Case) -> int:
        """What `parameters` of the spec says, or 0 without it."""
        return self.planned(case).parameters

    def make(self, case: Case) -> nn.Module:
        """Build it as a tower does."""
        return build_reduction(self.planned(case))

    def run(self, module: nn.Module, case: Case, tokens: Tensor) -> Tensor:
        """Call it as a tower does. The scores, if it takes any, are those of the tokens' first channel."""
        scores = {"scores": tokens.detach()[..., 0].float().softmax(-1)} if self.spec.scores else {}
        output: Tensor = module(tokens, case.grid, **scores)
        return output


def open_reduction(name: str, overrides: Sequence[str] = ()) -> Reduction:
    """Return the reduction of a type, such as ``"pool"``. `overrides` are options, such as ``"window=2"``.

    Raises PluginError for an unknown type, and ConfigError for options that are not valid.
    """
    found = registry().find(ReductionSpec, name)
    options = validated_options("reduction", found.spec, found.owner, options_of(found.spec.example, overrides))
    return Reduction(name, found.owner, options, found.spec)


@holds(
    "Compute with the grid that forward gets, not with the one that the module was built for, and take no square root."
)
def takes_other_grids(subject: Reduction) -> None:
    """A module takes pictures of another grid than it was built for, as native resolution and `tower.image_size` need."""
    first = subject.cases[0]
    for case in subject.cases[1:]:
        expect_planned(case, subject.run(subject.module, case, subject.tokens(case)), f"built for {first}, ")


@holds(
    "Let `block` of the spec be the n of the n x n neighbours that become one token, and `sizes` divide both sides by it."
)
def blocks_are_accepted(subject: Reduction) -> None:
    """A grid of whole blocks of n x n tokens gives one token for each block, if the spec states `block`."""
    side, width = subject.spec.block(subject.options) if subject.spec.block else 1, subject.cases[0].width
    if side == 1:
        raise SkippedCheckError("the spec states no block")
    for rows, cols in ((2, 3), (5, 1)):
        sizes = (rows * side, cols * side, width)
        after, reason = refused(lambda sizes: subject.resolved(sizes).sizes(sizes), sizes)
        expect(after is not None, f"{rows} x {cols} blocks of {side} x {side} tokens are refused: {reason}")
        expect(math.prod(after[:-1]) == rows * cols, f"{rows} x {cols} blocks of {side} x {side} tokens give {after}")


@holds("Let `tensors` of the spec list the state dict of the module: its parameters and its buffers, by key.")
def tensors_are_as_planned(subject: Reduction) -> None:
    """`tensors` of the spec lists the keys and shapes of the module's state dict, which the plan compares with a file's."""
    if subject.spec.tensors is None:
        raise SkippedCheckError("the spec lists no tensors")
    for case in subject.cases:
        stated = subject.spec.tensors(subject.planned(case).before, subject.options)
        planned = {key: tuple(shape) for key, shape in stated.items()}
        built = {key: tuple(tensor.shape) for key, tensor in subject.make(case).state_dict().items()}
        wrong = sorted(planned.items() ^ built.items())
        expect(not wrong, f"for {case} the spec and the state dict differ in {len(wrong)} tensors ({wrong[:2]})")


@holds(
    "Count one multiply-accumulate for each product of matrices and convolutions, for one picture of the sizes given."
)
def macs_are_as_planned(subject: Reduction) -> None:
    """`macs` of the spec is within 1 % of the products of matrices, attentions and convolutions that torch counts."""
    if subject.spec.macs is None:
        raise SkippedCheckError("the spec states no multiply-accumulates")
    for case in subject.cases:
        module, tokens, planned = subject.build(case), subject.tokens(case, 1), subject.planned(case).macs
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU is not counted
            _, (counted,) = count_macs(partial(subject.run, module, case, tokens))
        off = abs(planned - counted) / max(counted, 1)
        expect(off <= MACS, f"for {case} the spec says {planned:,} multiply-accumulates, torch counts {counted:,}")


@holds(
    "Let forward take `scores` (B, N) as a keyword, and keep the tokens that have the largest; or state `scores=False`."
)
def scores_are_used(subject: Reduction) -> None:
    """If the spec asks for scores, other scores give another output."""
    if not subject.spec.scores:
        raise SkippedCheckError("the spec asks for no scores")
    case, tokens = subject.cases[0], subject.tokens()
    low, high = (
        subject.module(tokens, case.grid, scores=order.softmax(-1)) for order in (-tokens[..., 0], tokens[..., 0])
    )
    expect(not torch.equal(low, high), "scores in the reverse order gave the same output")
