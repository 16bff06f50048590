"""The contracts of forward: batches, lists, determinism, dtypes and devices."""

from __future__ import annotations

import torch
from torch import Tensor

from vita_core.testing.kit import holds
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.testing.subject import Subject
from vita_core.towers.tower import BaseVisionTower

AGREE = 1e-5
"""The largest allowed difference of float32 features computed in another batch, as a fraction of the largest value."""
ERRORS = {torch.float16: 0.01, torch.bfloat16: 0.06}
"""The largest allowed error of a half-precision tower: RMS of the difference from float32, as a fraction of the features' RMS."""
ACCELERATOR_ERROR = 0.01
"""The same for float32 on an accelerator, whose matrix products may round to TF32."""


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, as a fraction of the largest expected value."""
    return float((found - expected).detach().abs().max() / expected.abs().max().clamp(min=1e-12))


def _error(found: Tensor, expected: Tensor) -> float:
    found = found.float().cpu()
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-12))


@holds("Keep the pictures of a batch apart in encode(): no statistics over dim 0, and no train mode while frozen.")
def batch_equals_one_by_one(subject: Subject) -> None:
    """A batch (B, 3, H, W) gives (B, N, C), with the same features as its pictures one by one."""
    batch = subject.features
    singles = [subject.tower(picture[None]) for picture in subject.pixels()]
    shapes = [tuple(single.shape) for single in singles]
    expect(all(shape == (1, *batch.shape[1:]) for shape in shapes), f"a batch of one picture gave {shapes[0]}")
    off = apart(torch.cat(singles).detach(), batch)
    expect(off <= AGREE, f"one by one, features differ by {off:.2g} of the largest value (at most {AGREE:g})")


@holds("Return one (1, N, C) tensor per picture if forward gets a list, as BaseVisionTower.forward does.")
def list_gives_a_list(subject: Subject) -> None:
    """A list of (3, H, W) gives a list of (1, N, C) with the same features as a batch; an empty list gives an empty list."""
    batch, output = subject.features, subject.tower(list(subject.pixels()))
    if isinstance(output, Tensor):
        expect(False, f"a list of {len(batch)} pictures gave one tensor {tuple(output.shape)}")
    expect(isinstance(output, list), f"a list of pictures gave a {type(output).__name__}")
    shapes, wanted = [tuple(part.shape) for part in output], [(1, *batch.shape[1:])] * len(batch)
    expect(shapes == wanted, f"a list of pictures gave shapes {shapes}, not {wanted}")
    off = apart(torch.cat(output).detach(), batch)
    expect(off <= AGREE, f"as a list, features differ by {off:.2g} of the largest value (at most {AGREE:g})")
    expect(subject.tower([]) == [], f"an empty list gave {subject.tower([])!r}")


@holds("Return a tensor (0, num_tokens, hidden_size) in the input's dtype, as BaseVisionTower.forward does.")
def empty_batch(subject: Subject) -> None:
    """An empty batch (0, 3, H, W) gives (0, N, C)."""
    output = subject.tower(subject.pixels()[:0])
    wanted = (0, *subject.features.shape[1:])
    expect(tuple(output.shape) == wanted, f"an empty batch gave {tuple(output.shape)}, not {wanted}")


@holds("Draw no random numbers in forward, and let nothing depend on what was built or run before.")
def deterministic(subject: Subject) -> None:
    """The same pixels give bit-equal features in a second run, and in a second tower with the same config."""
    again = subject.tower(subject.pixels())
    expect(torch.equal(again, subject.features), f"a second run differs by {apart(again, subject.features):.2g}")
    other = subject.build()(subject.pixels())
    expect(torch.equal(other, subject.features), f"a second tower differs by {apart(other, subject.features):.2g}")


@holds(
    "Return features in `images.dtype`, as BaseVisionTower.forward does, and call neither .float() nor .half() on them."
)
def output_has_the_inputs_dtype(subject: Subject) -> None:
    """Features have the dtype of the pixels in batches, empty batches and lists, whatever dtype the tower computes in."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        pixels = subject.pixels().to(dtype)
        outputs = {"a batch": subject.tower(pixels), "an empty batch": subject.tower(pixels[:0])}
        outputs["a list"] = subject.tower(list(pixels))[0]
        for what, output in outputs.items():
            expect(output.dtype == dtype, f"{what} of {dtype} pixels gave {output.dtype} features")


@holds("Let load_model() cast the weights to `self.dtype`, and create tensors in encode() with the dtype of `pixels`.")
def tower_has_the_configured_dtype(subject: Subject) -> None:
    """With `dtype: float16` or `bfloat16`, weights have that dtype and features are within 1 % or 6 % (RMS) of float32."""
    unable = []
    for dtype, allowed in ERRORS.items():
        tower = subject.build(dtype=str(dtype).removeprefix("torch."))
        kept = {parameter.dtype for parameter in tower.parameters()} | {tower.dtype}
        expect(kept == {dtype}, f"a tower of dtype {dtype} has parameters of {', '.join(map(str, kept))}")
        try:
            error = _error(tower(subject.pixels()).detach(), subject.features)
        except RuntimeError as reason:
            if "not implemented for" not in str(reason):
                raise
            unable.append(f"{dtype} ({reason})")
            continue
        expect(error <= allowed, f"{dtype} features differ by {error:.1%} from float32 (at most {allowed:.0%})")
    if unable:
        raise SkippedCheckError(f"this machine has no kernels for {', '.join(unable)}")


def _on(device: torch.device, subject: Subject) -> BaseVisionTower:
    tower = subject.build(device=device)
    elsewhere = [name for name, tensor in tower.state_dict().items() if tensor.device.type != device.type]
    expect(not elsewhere, f"after loading to {device}, {', '.join(elsewhere[:3])} are on another device")
    return tower


@holds("Create tensors in encode() on `pixels.device`, and register tables as buffers, which move with the module.")
def runs_on_the_accelerator(subject: Subject) -> None:
    """A tower built for the accelerator runs there on pixels from any device, and is within 1 % (RMS) of the CPU."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        raise SkippedCheckError("this machine has no accelerator")
    output = _on(device, subject)(subject.pixels())
    expect(output.device.type == device.type, f"features are on {output.device}, but the tower is on {device}")
    error = _error(output.detach(), subject.features)
    expect(
        error <= ACCELERATOR_ERROR, f"features differ by {error:.1%} from the CPU's (at most {ACCELERATOR_ERROR:.0%})"
    )
