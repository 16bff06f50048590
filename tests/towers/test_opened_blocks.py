"""Reductions that need an encoder's blocks: token merging and pruning in the blocks of each tower that offers it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from conftest import GOLDEN, golden_settings
from torch import Tensor, nn
from transformers import CLIPVisionModel

from vita_core import VitaError, build_tower, count_macs, make_plan
from vita_core.towers.reductions.merging import TokenMerging
from vita_plugins.clip.tower import ClipTower

OPENED = ("clip", "siglip", "internvit", "internvit_6b", "eva_clip", "timm")
MERGED = {"type": "token_merging", "per_block": 3, "blocks": [1, 2]}


@pytest.fixture(scope="module")
def sections(tower_examples: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The section of each tower that offers its blocks. All have a grid of 4 x 4, and the last layer is selected."""
    found = {name: golden_settings(name) for name in OPENED if name != "timm"} | {"timm": tower_examples["timm"]}
    plain = {"select_layer": 2, "pixel_shuffle": False, "feature_scale": None}
    return {name: {**section, **plain} for name, section in found.items()}


def pixels_of(tower: Any, count: int = 2) -> Tensor:
    return torch.randn(count, *tower.shape.pixels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", OPENED)
@torch.no_grad()
def test_the_halves_of_a_block_are_the_block(sections: dict[str, dict[str, Any]], name: str) -> None:
    whole, opened = build_tower(sections[name]), build_tower({**sections[name], "reduce": MERGED})
    assert whole.opened is None
    pixels, seen = pixels_of(whole), []
    halves = opened.opened
    assert halves is not None

    def both(block: Any, args: Any, kwargs: Any, output: Any) -> None:
        tokens, _ = halves.attend(block, args[0], None, kwargs)
        seen.append(torch.equal(halves.feed(block, tokens), output))

    blocks = next(part for part in whole.encoder.modules() if isinstance(part, nn.ModuleList | nn.Sequential))
    hooks = [block.register_forward_hook(both, with_kwargs=True) for block in blocks]
    whole(pixels)
    for hook in hooks:
        hook.remove()
    assert seen == [True, True]


STEPS: dict[str, Any] = {
    "merge": (MERGED, 10),
    "merge in the last block that runs": ({"type": "token_merging", "tokens": 5, "blocks": [2]}, 5),
    "prune": ({"type": "prune", "ratio": 0.5, "blocks": [1, 2]}, 6),
    "prune and drop": ({"type": "prune", "keep": 6, "rest": "drop", "blocks": [1]}, 6),
    "both": (
        [{"type": "token_merging", "per_block": 4, "blocks": [1]}, {"type": "prune", "keep": 5, "blocks": [2]}],
        6,
    ),
    "inside and behind": (
        [
            {"type": "token_merging", "ratio": 0.7, "blocks": [1]},
            {"type": "prune", "keep": 4},
            {"type": "token_merging", "tokens": 3},
        ],
        3,
    ),
}


CASES = [
    (name, steps) for name in OPENED for steps in STEPS if name != "siglip" or steps[:5] == "merge"
]  # it has no CLS


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_the_plan_counts_tokens_and_costs_of_the_run(
    sections: dict[str, dict[str, Any]], name: str, steps: str
) -> None:
    reduce, expected = STEPS[steps]
    section = {
        **sections[name],
        "attention": "eager",
        "reduce": reduce,
    }  # torch does not count its fused kernel on a CPU
    tower, plan = build_tower(section), make_plan({"tower": section})
    pixels = pixels_of(tower)
    output, spent = count_macs(lambda: tower(pixels[:1]), steps_and_what_is_before(tower))
    assert (plan.grid, plan.tokens, tower.grid, tower.num_tokens) == (None, expected, None, expected)
    assert output.shape == plan.stages[-1].shape
    *ends, total = spent
    if "behind" not in steps:  # the plan leaves out the few multiply-accumulates of the steps themselves
        total -= sum(after - before for before, after in zip(ends[::2], ends[1::2], strict=True))
        assert total == plan.flops // 2
        assert total < make_plan({"tower": sections[name]}).flops // 2
    assert torch.allclose(tower(pixels)[:1], output, atol=1e-5)


def steps_and_what_is_before(tower: Any) -> list[nn.Module]:
    """The attention of each block with a step inside, and the module of the step, which runs behind it."""
    opened = tower.opened
    blocks = next(each for each in tower.encoder.modules() if isinstance(each, nn.ModuleList | nn.Sequential))
    found: list[nn.Module] = []
    for block, operation in opened.operations.items():
        found += [blocks[block - 1].get_submodule(opened.parts.attention), operation]
    return found


@pytest.mark.parametrize("rest", ["merge", "drop"])
@torch.no_grad()
def test_pruning_behind_the_encoder_keeps_what_transformers_attends_to(rest: str) -> None:
    section = {"weights": str(GOLDEN / "clip"), "select_layer": -2}
    tower = build_tower({**section, "reduce": {"type": "prune", "keep": 5, "rest": rest}})
    pixels = pixels_of(tower)
    library = CLIPVisionModel.from_pretrained(GOLDEN / "clip", attn_implementation="eager", dtype=torch.float32)
    output = library(pixels, output_attentions=True, output_hidden_states=True)
    scores = output.attentions[-2][:, :, 0, 1:].mean(1)
    patches, expected = output.hidden_states[-2][:, 1:], []
    for picture, attended in zip(patches, scores, strict=True):
        kept = attended.topk(5).indices.sort().values
        others = torch.tensor([place for place in range(16) if place not in kept])
        more = [(picture[others] * attended[others, None]).sum(0, keepdim=True)] if rest == "merge" else []
        expected.append(torch.cat([picture[kept], *more]))
    torch.testing.assert_close(tower(pixels), torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert tower.num_tokens == 5 + (rest == "merge")


@torch.no_grad()
def test_merging_behind_the_encoder_joins_s2_features() -> None:
    section = golden_settings("siglip_s2")
    whole, tower = build_tower(section), build_tower({**section, "reduce": {"type": "token_merging", "tokens": 5}})
    pixels = torch.randn(2, 3, 168, 168)
    found = tower(pixels)
    assert found.shape == (2, 5, whole.hidden_size)
    alone = TokenMerging((16, whole.hidden_size), {"tokens": 5})
    assert torch.equal(found, alone(whole(pixels), (4, 4)))


@pytest.mark.parametrize(("feature", "count"), [("cls_patch", 11), ("cls", 1)])
@torch.no_grad()
def test_inside_the_cls_token_stays_first(sections: dict[str, dict[str, Any]], feature: str, count: int) -> None:
    section = {**sections["clip"], "reduce": MERGED}
    tower = build_tower({**section, "select_feature": feature})
    output = tower(pixels_of(tower))
    assert output.shape[1] == tower.num_tokens == count
    if feature == "cls_patch":
        assert torch.equal(output[:, 1:], build_tower(section)(pixels_of(tower)))


@pytest.mark.parametrize("name", ["clip", "eva_clip", "timm"])
@torch.no_grad()
def test_pictures_of_another_size_are_reduced_by_the_same_rule(sections: dict[str, dict[str, Any]], name: str) -> None:
    tower = build_tower({**sections[name], "reduce": MERGED})
    rows, cols = (side // 4 for side in tower.shape.image_size)
    assert tower(torch.randn(1, 3, 3 * rows, 5 * cols)).shape[1] == 15 - 6


@pytest.mark.parametrize("step", [MERGED, {"type": "prune", "keep": 5, "blocks": [1]}, {"type": "prune", "keep": 5}])
@pytest.mark.parametrize("name", ["clip", "internvit", "eva_clip", "timm"])
def test_gradients_reach_the_first_block(sections: dict[str, dict[str, Any]], name: str, step: dict[str, Any]) -> None:
    tower = build_tower({**sections[name], "freeze": {"from_layer": 1}, "reduce": step}).train()
    tower(pixels_of(tower)).square().sum().backward()
    first = [parameter.grad for key, parameter in tower.encoder.named_parameters() if ".0." in key]
    assert all(grad is not None and grad.isfinite().all() for grad in first)
    assert max(grad.abs().max() for grad in first) > 0


def test_half_precision(sections: dict[str, dict[str, Any]]) -> None:
    tower = build_tower(
        {**sections["clip"], "dtype": "bfloat16", "reduce": [{**MERGED, "blocks": [1]}, {"type": "prune", "keep": 4}]}
    )
    output = tower(pixels_of(tower))
    assert output.shape[1] == 5
    assert output.isfinite().all()


def test_a_plugin_that_opens_its_blocks_says_where_their_parts_are(monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"weights": str(GOLDEN / "clip"), "reduce": {"type": "prune", "keep": 3}}
    monkeypatch.setattr(ClipTower, "block_parts", None)
    with pytest.raises(
        VitaError, match=r"tower 'clip': its TowerSpec says opens_blocks, but ClipTower has no block_parts"
    ):
        build_tower(section)
    monkeypatch.undo()
    tower = build_tower(section)
    monkeypatch.setattr(ClipTower, "encode", lambda self, pixels, layers: ({3: torch.zeros(2, 17, 32)}, (4, 4)))
    with pytest.raises(VitaError, match=r"ClipTower\.encode does not run its blocks by run_blocks"):
        tower(pixels_of(tower))


@pytest.mark.extras  # torch.compile takes its time
@torch.no_grad()
def test_pruning_behind_compiled_blocks(sections: dict[str, dict[str, Any]]) -> None:
    section = {**sections["clip"], "reduce": {"type": "prune", "keep": 4}}
    tower = build_tower({**section, "compile": True})
    pixels = pixels_of(tower)
    torch.testing.assert_close(tower(pixels), build_tower(section)(pixels), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_another_thread_may_run_the_same_encoder(sections: dict[str, dict[str, Any]]) -> None:
    tower = build_tower({**sections["clip"], "reduce": MERGED})
    first, second = pixels_of(tower).split(1)
    expected, others = tower(first), []

    def interrupt(*_: object) -> None:  # between the keys and the end of the first block's attention
        hook.remove()
        thread = threading.Thread(target=lambda: others.append(tower(second)))
        thread.start()
        thread.join()

    hook = tower.encoder.encoder.layers[0].self_attn.v_proj.register_forward_hook(interrupt)
    assert torch.equal(tower(first), expected)
    assert torch.equal(others[0], tower(second))
