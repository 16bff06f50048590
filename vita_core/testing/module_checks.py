"""The contracts that reductions and projectors share."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor

from vita_core.testing.batches import AGREE, apart
from vita_core.testing.kit import holds
from vita_core.testing.loading import expect_light
from vita_core.testing.modules import Case, TokenModule
from vita_core.testing.outcomes import SkippedCheckError, expect


def expect_planned(case: Case, output: Tensor, where: str = "") -> None:
    """Expect that the output of two pictures has the sizes that the rule says."""
    found, wanted = tuple(output.shape), (2, case.after_tokens, case.after_width)
    expect(found == wanted, f"{where}two pictures with {case} gave {found}, the rule says {wanted}")


@holds('Import these libraries only in the module that the spec\'s factory names as "module:name".')
def planning_is_light(subject: TokenModule) -> None:
    """Importing the plugin module and the options does not import torch, transformers, timm, open_clip or torchvision."""
    expect_light(subject.owner, subject.kind, *subject.modules)


@holds("Let the rule of the spec and the module compute the sizes of the output from the same numbers.")
def output_is_as_planned(subject: TokenModule) -> None:
    """Built for a grid, square or not, the module gives (B, N', C') as the rule of the spec says; so `vita plan` is right."""
    for case in subject.accepted():
        expect_planned(case, subject.run(subject.build(case), case, subject.tokens(case)))


@holds("Flatten maps (B, C, rows, cols) with .flatten(2).transpose(1, 2), and swap no axes of the grid.")
def tokens_stand_row_by_row(subject: TokenModule) -> None:
    """If the output has a grid, token r * cols + c stands in row r, column c: it changes most with the tokens around there."""
    kept = [case for case in subject.cases if case.after_grid and case.grid and case.grid[0] != case.grid[1]]
    if not kept:
        raise SkippedCheckError("no output of a grid that is not square has a grid")
    for case in kept:
        _stand_row_by_row(subject, case, *(case.grid or ()), *(case.after_grid or ()))


def _stand_row_by_row(subject: TokenModule, case: Case, rows: int, cols: int, rows_after: int, cols_after: int) -> None:
    tokens, module = subject.tokens(case, 1), subject.build(case)
    for row, col, place in ((0, cols - 1, "upper right"), (rows - 1, 0, "lower left")):
        changed = tokens.clone()
        changed[:, row * cols + col] += 1
        moved = (subject.run(module, case, changed) - subject.run(module, case, tokens)).detach()[0].norm(dim=-1)
        if not moved.any():
            continue  # an odd last row or column that is left out
        found_row, found_col = divmod(int(moved.argmax()), cols_after)
        near = _near(found_row, row, rows_after, rows) and _near(found_col, col, cols_after, cols)
        most = f"row {found_row}, column {found_col} of {rows_after} x {cols_after}"
        expect(near, f"with {case}, a change in the {place} changed most the token in {most}")


def _near(found: int, changed: int, side_after: int, side: int) -> bool:
    """Return whether a row (or column) of the output is in the half of one of the input, or in the middle."""
    return 2 * found + 1 == side_after or (2 * found + 1 < side_after) == (2 * changed + 1 < side)


@holds("Count every tensor that the module registers as a parameter in `parameters` of the spec.")
def parameters_are_as_planned(subject: TokenModule) -> None:
    """The module has as many parameters as `parameters` of the spec says."""
    for case in subject.cases:
        planned, module = subject.planned_parameters(case), subject.make(case)
        built = sum(parameter.numel() for parameter in module.parameters())
        expect(built == planned, f"for {case} the spec says {planned:,} parameters, the module has {built:,}")


@holds("Divide by nothing that can be zero, and add a small number inside square roots and logarithms.")
def output_is_finite(subject: TokenModule) -> None:
    """The output is finite, also for tokens that are all equal."""
    module, tokens = subject.module, subject.tokens()
    for what, values in {
        "random tokens": tokens,
        "equal tokens": tokens[:, :1].expand_as(tokens),
        "zeros": 0 * tokens,
    }.items():
        wrong = int((~torch.isfinite(subject.run(module, subject.cases[0], values))).sum())
        expect(wrong == 0, f"{wrong} values of the output for {what} are not finite")


@holds(
    "Use no @torch.no_grad(), .detach() or rounding in forward, and register no parameter that forward does not use."
)
def gradient_reaches_tokens_and_weights(subject: TokenModule) -> None:
    """Gradients reach the tokens and every parameter that requires one."""
    module, tokens = subject.build().train(), subject.tokens().requires_grad_()
    output = subject.run(module, subject.cases[0], tokens)
    expect(output.requires_grad, "the output has no gradient graph")
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    expect(tokens.grad is not None and bool(tokens.grad.abs().sum() > 0), "no gradient reached the tokens")
    learning = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    without = [name for name, parameter in learning.items() if parameter.grad is None]
    expect(not without, f"no gradient reached {len(without)} of {len(learning)} parameters ({', '.join(without[:3])})")


@holds("Draw no random numbers in eval mode, and keep nothing from one call to the next.")
def deterministic(subject: TokenModule) -> None:
    """In eval mode, the same tokens give bit-equal output in every call."""
    again = subject.run(subject.module, subject.cases[0], subject.tokens())
    expect(torch.equal(again, subject.output), f"a second run differs by {apart(again, subject.output):.2g}")


@holds(
    "Keep the pictures of a batch apart in forward: no statistics over dim 0, and no choice that all pictures share."
)
def batch_equals_one_by_one(subject: TokenModule) -> None:
    """A batch (B, N, C) gives the same output as its pictures one by one."""
    singles = [subject.run(subject.module, subject.cases[0], picture[None]) for picture in subject.tokens()]
    shapes = [tuple(single.shape) for single in singles]
    wanted = (1, *subject.output.shape[1:])
    expect(all(shape == wanted for shape in shapes), f"a batch of one picture gave {shapes[0]}, not {wanted}")
    off = apart(torch.cat(singles).detach(), subject.output)
    expect(off <= AGREE, f"one by one, the output differs by {off:.2g} of the largest value (at most {AGREE:g})")


@holds(
    "Reshape with the number of pictures, not with -1 beside it. If a library's module needs a picture, return an empty tensor "
    "without calling it."
)
def empty_batch(subject: TokenModule) -> None:
    """An empty batch (0, N, C) gives (0, N', C')."""
    output = subject.run(subject.module, subject.cases[0], subject.tokens()[:0])
    wanted = (0, *subject.output.shape[1:])
    expect(tuple(output.shape) == wanted, f"an empty batch gave {tuple(output.shape)}, not {wanted}")


@holds("Create tensors in forward with the dtype of the tokens, and cast back what is computed in float32.")
def dtype_is_kept(subject: TokenModule) -> None:
    """In float32 and in bfloat16, the output has the dtype of the tokens and of the weights."""
    for dtype in (torch.float32, torch.bfloat16):
        output = subject.run(subject.build().to(dtype), subject.cases[0], subject.tokens().to(dtype))
        expect(output.dtype == dtype, f"{dtype} tokens gave {output.dtype}")


@holds(
    "Let forward use only what is in the state dict or follows from the sizes and the options, and share no tensors in it."
)
def saved_and_reloaded(subject: TokenModule) -> None:
    """Another module that loads the saved state dict gives the same output."""
    expected, state = subject.output, subject.module.state_dict()
    other = subject.make(subject.cases[0]).eval()
    other.load_state_dict(load(save({key: tensor.contiguous() for key, tensor in state.items()})))
    off = apart(subject.run(other, subject.cases[0], subject.tokens()).detach(), expected)
    expect(
        off <= AGREE, f"the output of the second module differs by {off:.2g} of the largest value (at most {AGREE:g})"
    )


@holds("Register tables as buffers, which move with the module, and create tensors in forward on the tokens' device.")
def runs_on_the_accelerator(subject: TokenModule) -> None:
    """Moved to the accelerator, the module gives its output there."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        raise SkippedCheckError("this machine has no accelerator")
    output = subject.run(subject.build().to(device), subject.cases[0], subject.tokens().to(device))
    expect(output.device.type == device.type, f"the output is on {output.device}, but the module is on {device}")
