"""Token merging (ToMe): by hand, behind the encoder, and inside against its arithmetic on the library's own modules."""

from __future__ import annotations

import pytest
import torch
from plain_vits import TIMM, half, timm_model
from torch import Tensor, nn

from vita_core.errors import VitaError
from vita_core.plugins.builtin_reductions.tokens import merges
from vita_core.towers.reductions.blocks import BlockRunner
from vita_core.towers.reductions.merging import MergeInside, TokenMerging, match, merge
from vita_plugins.timm.blocks import embedded, parts


def test_a_case_by_hand() -> None:
    # places 0..5; the even ones propose: 0 is most like 5, 2 like 1, and 4 like 3 (the best pair)
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [1.0, 4.0], [-1.0, 0.0], [-5.0, 0.0], [2.0, 1.0]]])
    merged, sizes = merge(tokens, match(tokens, 1))
    assert merged.tolist() == [[[1, 0], [0, 3], [1, 4], [-3, 0], [2, 1]]]
    assert sizes.tolist() == [[1, 1, 1, 2, 1]]
    merged, sizes = merge(tokens, match(tokens, 3))
    assert merged.tolist() == [[[0.5, 3.5], [-3, 0], [1.5, 0.5]]]
    merged, sizes = merge(merged, match(merged, 1), sizes)  # 0 is most like 1 of what is left (-0.14), 2 like 1 (-0.95)
    assert sizes.tolist() == [[4, 2]]
    assert merged.tolist() == [[[-1.25, 1.75], [1.5, 0.5]]]
    chosen = match(tokens, 2, protected=2)  # neither 0 nor 1 takes part
    assert [*zip(*(each.tolist()[0] for each in chosen[:2]), strict=True)] == [(4, 3), (2, 5)]


@pytest.mark.parametrize(("options", "left"), [({"tokens": 7}, 7), ({"ratio": 0.2}, 5), ({"tokens": 24}, 24)])
def test_it_leaves_as_many_tokens_as_the_rule_says(options: dict[str, float], left: int) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 24, 8)
    reduced = TokenMerging((4, 6, 8), options)(tokens, (4, 6))
    assert reduced.shape == (3, left, 8)
    assert 24 - sum(merges(24, options)) == left
    for picture, found in zip(tokens, reduced, strict=True):  # batch invariance
        assert torch.equal(TokenMerging((4, 6, 8), options)(picture[None])[0], found)
    if left == 24:
        assert torch.equal(reduced, tokens)


def test_more_tokens_than_there_are() -> None:
    with pytest.raises(VitaError, match=r"^30 tokens are more than there are: 24. Try: 24 or fewer$"):
        TokenMerging((4, 6, 8), {"tokens": 30})(torch.randn(1, 24, 8))


def test_tokens_stay_in_the_order_of_the_picture() -> None:
    tokens = torch.arange(40.0)[None, :, None].repeat(1, 1, 2) + torch.tensor([0.0, 1000.0])
    reduced = TokenMerging((5, 8, 2), {"tokens": 13})(tokens)[0, :, 0]
    assert (reduced.diff() > 0).all()


def test_the_gradient_reaches_every_token() -> None:
    tokens = torch.randn(2, 10, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(TokenMerging((2, 5, 4), {"tokens": 4}), tokens)
    TokenMerging((2, 5, 4), {"tokens": 4})(tokens).sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad != 0).all()


def by_hand(model: nn.Module, tokens: Tensor, rope: Tensor | None, counts: dict[int, int]) -> Tensor:
    """ToMe's arithmetic, token by token, of one picture (1, T, C) through the blocks of a timm ViT."""
    sizes, prefix, more = torch.ones(tokens.shape[1]), model.num_prefix_tokens, {}
    for index, block in enumerate(model.blocks, 1):
        keys: list[Tensor] = []
        hook = block.attn.k_norm.register_forward_hook(lambda _, __, out, box=keys: box.append(out))
        more = {} if rope is None else {"rope": rope}
        tokens = tokens + half(
            block, 1, block.attn(block.norm1(tokens), attn_mask=sizes.log()[None, None, None], **more)
        )
        hook.remove()
        if index in counts:
            metric, best = keys[0][0].mean(0), {}
            for even in range(0, len(metric), 2):
                others = [odd for odd in range(1, len(metric), 2) if min(even, odd) >= prefix]
                if others:
                    similar = [torch.cosine_similarity(metric[even], metric[odd], dim=0).item() for odd in others]
                    best[even] = max(zip(similar, others, strict=True))
            order = sorted(best, key=lambda even: best[even], reverse=True)[: counts[index]]
            kept = [place for place in range(len(metric)) if place not in order]
            groups = [[place, *(even for even in order if best[even][1] == place)] for place in kept]
            merged = [(tokens[0, group] * sizes[group, None]).sum(0) / sizes[group].sum() for group in groups]
            tokens, sizes = torch.stack(merged)[None], torch.stack([sizes[group].sum() for group in groups])
            rope = None if rope is None else rope[[place - prefix for place in kept[prefix:]]]
        tokens = tokens + half(block, 2, block.mlp(block.norm2(tokens)))
    return tokens


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", TIMM)
@torch.no_grad()
def test_inside_it_is_tome_on_the_modules_of_timm(name: str, fused: bool) -> None:
    model = timm_model(name, **{**TIMM[name], "img_size": 96})
    for block in model.blocks:
        block.attn.fused_attn &= fused
    found, prefix = parts(model), model.num_prefix_tokens
    assert found is not None
    tokens, more, _ = embedded(model, torch.randn(2, 3, 96, 96))
    steps = {block: MergeInside((36, 48), {"per_block": 8}) for block in (1, 2)}
    output = BlockRunner(found, prefix, steps).run(tokens, model.blocks, [3], **more)[3]
    assert output.shape == (2, prefix + 36 - 16, 48)
    for picture, reduced in zip(tokens.split(1), output.split(1), strict=True):
        expected = by_hand(model, picture, more.get("rope"), {1: 8, 2: 8})
        assert (expected - reduced).abs().max() <= 1e-5 * expected.abs().max()
