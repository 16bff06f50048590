"""The contracts of training: gradients, freezing, train and eval mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vita_core.testing.kit import holds
from vita_core.testing.outcomes import expect
from vita_core.testing.subject import Subject
from vita_core.towers.tower import BaseVisionTower

NO_DECORATOR = (
    "Freeze only with requires_grad_(False), as BaseVisionTower does for `freeze:`, and use no @torch.no_grad(), "
    "torch.inference_mode(), .detach() or torch.set_grad_enabled() in the tower."
)


def _backward(output: Tensor) -> None:
    """Run backward from a random sum, because a plain sum or sum of squares is constant after a layer norm."""
    expect(output.requires_grad, "the features have no gradient graph")
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()


@holds(NO_DECORATOR)
def frozen_builds_no_graph(subject: Subject) -> None:
    """A frozen tower has no parameter that requires a gradient, builds no graph, and leaves gradients enabled elsewhere."""
    learns = [name for name, parameter in subject.tower.named_parameters() if parameter.requires_grad]
    expect(not learns, f"with `freeze: true` {len(learns)} parameters require gradients ({', '.join(learns[:3])})")
    expect(not subject.tower(subject.pixels()).requires_grad, "the features of a frozen tower have a gradient graph")
    subject.build()
    expect(
        torch.is_grad_enabled(), "after building and running the tower, gradients are disabled for the whole program"
    )


@holds(NO_DECORATOR)
def gradient_reaches_the_input(subject: Subject) -> None:
    """A frozen tower passes gradients to pixels that require them (for saliency maps and adversarial pictures)."""
    subject.one_encoder()
    pixels = subject.pixels().requires_grad_()
    _backward(subject.tower(pixels))
    expect(pixels.grad is not None and bool(pixels.grad.abs().sum() > 0), "no gradient reached the pixels")


def _first_to_run(tower: BaseVisionTower, pixels: Tensor) -> nn.Module:
    """Return the first module with its own parameters that forward calls: the patch embedding or the stem."""
    called: list[nn.Module] = []
    owners = [module for module in tower.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in owners]
    tower(pixels)
    for hook in hooks:
        hook.remove()
    expect(bool(called), "forward called no module that has parameters")
    return called[0]


@holds(NO_DECORATOR)
def training_reaches_the_first_layer(subject: Subject) -> None:
    """With `freeze: false`, every parameter requires a gradient, and gradients reach the first layer of the encoder."""
    tower = subject.build(freeze=False)
    still = [name for name, parameter in tower.named_parameters() if not parameter.requires_grad]
    expect(not still, f"with `freeze: false` {len(still)} parameters require no gradient ({', '.join(still[:3])})")
    first = _first_to_run(tower, subject.pixels())
    tower.zero_grad()
    _backward(tower(subject.pixels()))
    reached = [parameter.grad for parameter in first.parameters(recurse=False) if parameter.grad is not None]
    told = f"no gradient reached {type(first).__name__}, the first layer that runs"
    expect(any(bool(gradient.abs().sum() > 0) for gradient in reached), told)


@holds("Use train() of BaseVisionTower, or keep a frozen encoder in eval mode if you override it.")
def train_and_eval_modes(subject: Subject) -> None:
    """train() and eval() set the mode of a trainable encoder; a frozen one stays in eval mode, with the same features."""
    learning = subject.build(freeze=False)
    for mode in (True, False):
        learning.train(mode)
        other = [name for name, module in learning.named_modules() if module.training != mode]
        expect(not other, f"after train({mode}), {', '.join(map(repr, other[:3]))} are in the wrong mode")
    frozen = subject.build().train()
    training = (
        [name for name, module in frozen.vision_tower.named_modules() if module.training] if frozen.vision_tower else []
    )
    expect(not training, f"after train(), {len(training)} modules of a frozen encoder are in train mode")
    expect(
        torch.equal(frozen(subject.pixels()), subject.features), "after train(), the features of a frozen tower changed"
    )
