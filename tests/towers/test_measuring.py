"""Shapes that are measured by one run on the meta device, against the closed formula and what encoders give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from vita_core import Shape, VitaError, count_macs, hidden_states, measure


def vision_transformer() -> VisionTransformer:
    with torch.device("meta"):
        model = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24)
    return model.eval()


def shape_of(model: VisionTransformer, size: tuple[int, int] = (32, 32)) -> Shape:
    pixels = torch.empty(1, 3, *size, device="meta")
    model.heads = nn.Identity()
    return measure(model, model.encoder.layers, lambda: model(pixels), size, norm=model.encoder.ln)


def test_a_measured_shape_is_that_of_the_closed_formula() -> None:
    width, mlp, patch = 16, 24, 8
    attention, norms = 4 * (width * width + width), 4 * width
    formula = Shape.vit(
        image_size=32,
        patch_size=patch,
        width=width,
        layers=3,
        mlp_width=mlp,
        prefix_tokens=1,
        embedding_parameters=width * (3 * patch * patch + 1 + 17 + 1),
        block_parameters=attention + 2 * width * mlp + mlp + width + norms,
        norm_parameters=2 * width,
    )
    assert shape_of(vision_transformer()) == formula


def test_macs_are_counted_up_to_the_end_of_each_module() -> None:
    first, second = nn.Linear(4, 8, device="meta"), nn.Linear(8, 2, device="meta")
    output, macs = count_macs(lambda: second(first(torch.empty(3, 4, device="meta"))), [first])
    assert (tuple(output.shape), macs) == ((3, 2), [3 * 4 * 8, 3 * 4 * 8 + 3 * 8 * 2])


class Merging(nn.Module):
    """A block that drops every second token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, ::2]


def test_features_that_do_not_fit_are_an_error_and_no_guess() -> None:
    model = vision_transformer()
    model.encoder.layers[1] = Merging()
    with pytest.raises(
        VitaError, match=r"^VisionTransformer: features of shape \(1, 9, 16\) do not fit a grid of 4 x 4"
    ):
        shape_of(model)


def test_blocks_that_do_not_run_once_each_are_an_error() -> None:
    model = vision_transformer()
    model.encoder.layers[1] = model.encoder.layers[2]  # one block twice
    with pytest.raises(VitaError, match="does not run its 3 blocks once each: it gives 6 hidden states"):
        shape_of(model)


class VideoTransformer(nn.Module):
    """A transformer of the patches of two frames each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8))
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 24, batch_first=True) for _ in range(2)])

    def forward(self, clips: Tensor) -> Tensor:
        tokens = self.embed(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


def test_the_steps_of_a_video_are_those_of_the_convolution() -> None:
    with torch.device("meta"):
        model = VideoTransformer()
    clips = torch.empty(1, 6, 3, 32, 16, device="meta")
    shape = measure(model, model.blocks, lambda: model(clips), (32, 16), frames=6)
    assert (shape.frames, shape.steps, shape.prefix_tokens, shape.pixels) == (6, 3, 0, (6, 3, 32, 16))
    assert [stage.grid for stage in shape.stages] == [(4, 2)] * 3
    assert shape.stages[0].macs == 3 * 4 * 2 * 16 * 3 * 2 * 8 * 8


def test_hidden_states_end_the_run_after_the_last_layer() -> None:
    model = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=24).eval()
    ran: list[int] = []
    for index, block in enumerate(model.encoder.layers, 1):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    pixels = torch.randn(2, 3, 32, 32)
    states = hidden_states(model.encoder.layers, lambda: model(pixels), [0, 2])
    assert ran == [1, 2]
    torch.testing.assert_close(model.encoder.layers[1](model.encoder.layers[0](states[0])), states[2])
    assert not model.encoder.layers[1]._forward_hooks
