"""Pruning by the attention of the CLS token (EViT): its scores are the library's own, and its tokens those of the paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from plain_vits import TIMM, half, spread, timm_model
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, InternVLVisionConfig, InternVLVisionModel

from vita_core.errors import VitaError
from vita_core.towers.reductions.blocks import Attention, BlockRunner
from vita_core.towers.reductions.pruning import Prune, PruneInside
from vita_plugins.clip.tower import ClipTower
from vita_plugins.internvit.tower import InternVitTower
from vita_plugins.timm.blocks import embedded, parts

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "patch_size": 14}


def test_a_case_by_hand() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]])
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.625]])
    dropped = Prune((4, 2), {"keep": 2, "rest": "drop"})(tokens, scores=scores)
    assert dropped.tolist() == [[[1, 2], [7, 8]]]
    merged = Prune((4, 2), {"ratio": 0.5, "rest": "merge"})(tokens, scores=scores)
    assert merged.tolist() == [[[1, 2], [7, 8], [0.25 * 3 + 0.125 * 5, 0.25 * 4 + 0.125 * 6]]]


def test_pictures_of_a_batch_keep_tokens_of_their_own() -> None:
    torch.manual_seed(0)
    tokens, scores = torch.randn(3, 20, 8, requires_grad=True), torch.rand(3, 20)
    module = Prune((20, 8), {"keep": 6, "rest": "merge"})
    reduced = module(tokens, scores=scores)
    assert reduced.shape == (3, 7, 8)
    for index in range(3):
        alone = module(tokens[index : index + 1], scores=scores[index : index + 1])
        assert torch.equal(alone[0], reduced[index])
        places = [int((tokens[index] == token).all(-1).nonzero()) for token in alone[0, :-1]]
        assert places == sorted(scores[index].topk(6).indices.tolist())
    reduced.sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad != 0).all()


def test_nothing_to_prune() -> None:
    with pytest.raises(
        VitaError, match=r"^4 tokens are to be kept, but there are 4. Try: fewer, or leave the step out$"
    ):
        Prune((4, 2), {"keep": 4, "rest": "drop"})(torch.zeros(1, 4, 2), scores=torch.zeros(1, 4))


def test_merged_tokens_weigh_as_many_patches_as_they_stand_for() -> None:
    """The CLS token and three patches, of which the second stands for 4: by hand, with logits 0, 0, 0, log 2."""
    queries, keys = (
        torch.tensor([1.0, 0.0]),
        torch.tensor([[0.0, 9.0], [0.0, 9.0], [0.0, 9.0], [math.sqrt(2) * math.log(2), 0]]),
    )
    sizes = torch.tensor([[1.0, 1.0, 4.0, 1.0]])
    attention = Attention(queries.expand(1, 1, 4, 2), keys[None, None], keys[None, None], sizes, 1)
    torch.testing.assert_close(attention.cls_scores(), torch.tensor([[1 / 8, 4 / 8, 2 / 8]]))
    tokens = torch.tensor([[[5.0], [8.0], [1.0], [4.0]]])
    kept = PruneInside((3, 1), {"keep": 1, "rest": "merge"})(tokens, attention)
    assert kept.tokens.tolist() == [[[5], [1], [8 / 8 + 2 * 4 / 8]]]
    assert (kept.places.tolist(), kept.sizes.tolist()) == (
        [[0, 2, 3]],
        [[1, 4, 2]],
    )  # 3 is the most attended of the rest
    dropped = PruneInside((3, 1), {"keep": 2, "rest": "drop"})(tokens, attention)
    assert (dropped.places.tolist(), dropped.sizes.tolist()) == ([[0, 2, 3]], [[1, 4, 1]])


@torch.no_grad()
@pytest.mark.parametrize("library", ["clip", "internvit", "internvit-6b"])
def test_scores_are_the_attention_of_transformers(library: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES, "image_size": 56}
    model: Any
    if library == "clip":
        config = CLIPVisionConfig(**sizes)
        config._attn_implementation = "sdpa"
        model, found = CLIPVisionModel(config).eval(), ClipTower.block_parts
        blocks, more = model.encoder.layers, {"attention_mask": None}
    else:
        rms = {"norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False}
        config = InternVLVisionConfig(**sizes, **(rms if "6b" in library else {}))
        config._attn_implementation = "sdpa"
        model, found = InternVLVisionModel(config).eval(), InternVitTower.block_parts
        blocks, more = model.encoder.layer, {}
    spread(model)
    pixels = torch.randn(2, 3, 56, 56)
    assert found is not None
    config._attn_implementation = "eager"
    output = model(pixels, output_attentions=True, output_hidden_states=True)
    config._attn_implementation = "sdpa"
    tokens = output.hidden_states[0]
    for layer in (1, 2, 3):
        states = BlockRunner(found, 1, {}, scored=True).run(tokens, blocks, [layer], **more)
        expected = output.attentions[layer - 1][:, :, 0, 1:].mean(1)
        assert states.scores is not None
        assert states.scores.std() > 1e-3  # else any scores would pass
        assert (states.scores - expected).abs().max() <= 1e-6
        assert torch.equal(states[layer], BlockRunner(found, 1, {}).run(tokens, blocks, [layer], **more)[layer])


def weights(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The attention weights (B, heads, T, T) of each block, as timm multiplies them without a fused kernel."""
    found: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
    hooks = [block.attn.attn_drop.register_forward_hook(lambda _, __, out: found.append(out)) for block in model.blocks]
    model.forward_features(pixels)
    for hook in hooks:
        hook.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM)
def test_scores_are_the_attention_of_timm(name: str) -> None:
    model, pixels = timm_model(name, **TIMM[name]), torch.randn(2, 3, 64, 64)
    found, prefix = parts(model), model.num_prefix_tokens
    assert found is not None
    expected = weights(model, pixels)
    tokens, more, _ = embedded(model, pixels)
    for layer in (1, 3):
        states = BlockRunner(found, prefix, {}, scored=True).run(tokens, model.blocks, [layer], **more)
        assert states.scores is not None
        assert states.scores.std() > 1e-3
        assert (states.scores - expected[layer - 1][:, :, 0, prefix:].mean(1)).abs().max() <= 1e-6
        whole = model.forward_intermediates(pixels, indices=[layer - 1], output_fmt="NLC", intermediates_only=True)
        assert torch.equal(states[layer][:, prefix:], whole[0])


@torch.no_grad()
@pytest.mark.parametrize("rest", ["merge", "drop"])
@pytest.mark.parametrize("name", TIMM)
def test_inside_it_is_evit_on_the_modules_of_timm(name: str, rest: str) -> None:
    """One picture with 16 patches, of which block 1 keeps 7 and block 2 the half of what is left, each with its position."""
    model, pixels = timm_model(name, **TIMM[name]), torch.randn(1, 3, 64, 64)
    found, prefix = parts(model), model.num_prefix_tokens
    assert found is not None
    steps = {
        1: PruneInside((16, 48), {"keep": 7, "rest": rest}),
        2: PruneInside((7, 48), {"ratio": 0.5, "rest": rest}),
    }
    tokens, more, _ = embedded(model, pixels)
    reduced = BlockRunner(found, prefix, steps).run(tokens, model.blocks, [3], **more)[3]
    assert reduced.shape == (1, prefix + 4 + (rest == "merge"), 48)
    rope = more.get("rope")
    for index, block in enumerate(model.blocks, 1):
        block.attn.fused_attn = False
        kept_weights: list[Tensor] = []
        hook = block.attn.attn_drop.register_forward_hook(lambda _, __, out, box=kept_weights: box.append(out))
        tokens = tokens + half(block, 1, block.attn(block.norm1(tokens), **({} if rope is None else {"rope": rope})))
        hook.remove()
        if index < 3:
            scores = kept_weights[0][0, :, 0, prefix:].mean(0)
            order = scores.argsort(descending=True)
            count = 7 if index == 1 else 4
            kept, others = order[:count].sort().values, order[count:]
            patches = tokens[0, prefix:]
            pieces = [tokens[0, :prefix], patches[kept]]
            if rest == "merge":
                pieces.append((patches[others] * scores[others, None]).sum(0, keepdim=True))
                kept = torch.cat([kept, others[:1]])  # at the place of the most attended one of the rest
            tokens, rope = torch.cat(pieces)[None], None if rope is None else rope[kept]
        tokens = tokens + half(block, 2, block.mlp(block.norm2(tokens)))
    assert (tokens - reduced).abs().max() <= 1e-5 * tokens.abs().max()
