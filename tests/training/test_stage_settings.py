"""What the keys of a stage do to its steps, its batches and its gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_stages import FINETUNE, GOLDEN, config, samples

from vita_core.models.building import build
from vita_core.planning.resolution import resolve
from vita_core.training.joint import Joint, collate
from vita_core.training.parts import freeze_unused, prepare_parts, roots
from vita_core.training.recomputing import recomputed
from vita_core.training.resumable import load_trained, trained_state
from vita_core.training.stages import resolve_stages
from vita_core.training.trainer import StageTrainer


def prepared(written: dict[str, Any]) -> tuple[Any, Any]:
    """The model of a config, and its only stage, for which it is prepared."""
    torch.manual_seed(0)
    resolved = resolve(written)
    (stage,) = resolve_stages(resolved, ["captions"])
    model = build(resolved, untrained=True)
    prepare_parts(model, stage.parts, stage.key)
    return model, stage


def trainer(model: Any, stage: Any, data: Any, folder: Path, steps: int = 2, **more: Any) -> StageTrainer:
    return StageTrainer(Joint(model), stage, data, None, folder, steps=steps, seed=0, keep=2, **more)


def gradients(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)  # of dropout
    Joint(model)(batch).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("name", ["siglip", "timm", "torchvision"])
def test_recomputed_activations_give_the_same_gradients(
    name: str, tiny_llm: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    train = {"projector": "full", "llm": {"lora": {"rank": 2, "dropout": 0.5}}, "tower": "full"}
    model, _ = prepared(config(tiny_llm, {**FINETUNE, "train": train}, tower=tower_examples[name]))
    model.train()
    batch, before = collate(samples(model, 2)), copy.deepcopy(model.state_dict())
    kept = gradients(model, batch)
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    model.load_state_dict(before)
    calls: list[str] = []
    joint = Joint(model)
    with recomputed(joint) as blocks:
        layers = [block for block in blocks if block.startswith("model.llm")]
        assert len(layers) == 2  # the tiny language model's
        assert any(block.startswith("model.tower") for block in blocks)
        joint.get_submodule(layers[0]).register_forward_hook(lambda *_: calls.append("whole"))
        attention: Any = joint.get_submodule(f"{layers[0]}.self_attn")
        attention.register_forward_hook(lambda *_: calls.append("inside"))
        again = gradients(model, batch)
    assert (calls.count("whole"), calls.count("inside")) == (1, 2)
    assert kept.keys() == again.keys()
    assert all(torch.equal(again[key], value) for key, value in kept.items())
    assert all(torch.equal(value, statistics[key]) for key, value in model.named_buffers())
    calls.clear()
    gradients(model, batch)
    assert calls.count("inside") == 1


def test_the_blocks_of_each_encoder_are_recomputed(tiny_llm: Path) -> None:
    """Not each encoder as one block, whose activations would all be there at once in the backward pass."""
    towers = [{"weights": str(GOLDEN / name)} for name in ("clip", "siglip")]
    written = config(tiny_llm, FINETUNE)
    written["tower"] = {"towers": towers}
    model = build(resolve(written), untrained=True)
    with recomputed(Joint(model)) as blocks:
        found = {name.rpartition(".")[0] for name in blocks if name.startswith("model.tower")}
    assert {name.split(".layers")[0] for name in found} == {
        f"model.tower.encoder.{part}.encoder.encoder" for part in "01"
    }
    counts = [sum(name.startswith(f"model.tower.encoder.{part}.") for name in blocks) for part in "01"]
    assert counts == [part.resolved.geometry.blocks for part in model.tower.parts]


@pytest.mark.parametrize("trained", [False, True])
def test_batch_statistics(
    trained: bool, tiny_llm: Path, tmp_path: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    """Those of a frozen encoder stay; those of a trained one move, and are in its checkpoints."""
    parts = {"projector": "full"} | ({"tower": "full"} if trained else {})
    written = config(tiny_llm, {**FINETUNE, "train": parts}, tower=tower_examples["torchvision"])
    model, stage = prepared(written)
    data = samples(model, 4)
    freeze_unused(Joint(model), [collate(data[:1])])
    before = {name: value.clone() for name, value in model.tower.state_dict().items()}
    trainer(model, stage, data, tmp_path).train()
    moved = {name for name, value in model.tower.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name for name in before if "running_" in name}
    assert statistics
    assert (moved >= statistics) if trained else not moved
    other, _ = prepared(written)
    freeze_unused(Joint(other), [collate(data[:1])])
    load_trained(other, trained_state(model))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_parts_of_a_batch_give_the_step_of_the_whole(tiny_llm: Path, tmp_path: Path) -> None:
    found = []
    for parts in (1, 2):
        model, stage = prepared(config(tiny_llm, {**FINETUNE, "batch_size": 4, "accumulate": parts}))
        data = samples(model, 8)
        data[1]["labels"] = torch.tensor([-100, -100, -100, -100, -100, 8])  # the parts have other numbers of tokens
        run = trainer(model, stage, data, tmp_path / str(parts))
        run.train()
        losses = [row["loss"] for row in run.state.log_history if "loss" in row]
        found.append((losses, trained_state(model)))
    (whole, expected), (parted, state) = found
    assert whole == pytest.approx(parted, rel=1e-5)
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_rates_and_schedules(tiny_llm: Path, tmp_path: Path) -> None:
    """Each part has its own rate; warm-up is linear, and the cosine would be zero after the last step."""
    model, stage = prepared(config(tiny_llm, {**FINETUNE, "warmup": 0.2, "weight_decay": 0.1}))
    run = trainer(model, stage, samples(model, 20), tmp_path, steps=10)
    run.train()
    groups = run.optimizer.param_groups
    tower = {id(value) for value in roots(model)["tower"].parameters()}
    for group in groups:
        inside = {id(value) in tower for value in group["params"]}
        assert len(inside) == 1
        assert group["initial_lr"] == (1e-4 if inside.pop() else 1e-3)
        assert all(value.ndim > 1 for value in group["params"]) == (group["weight_decay"] == 0.1)
    rates = [row["learning_rate"] for row in run.state.log_history if "learning_rate" in row]
    shares = [torch.tensor((at - 2) / 8 * torch.pi).cos().item() / 2 + 0.5 for at in range(2, 11)]
    base = 1e-3  # the stage's own rate is logged, not the tower's
    assert rates == pytest.approx([base * share for share in (0, 0.5, *shares[:-1])], abs=1e-9)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_precisions(precision: str, dtype: str, tiny_llm: Path, tmp_path: Path) -> None:
    """Trained weights are float32 whatever the model runs in, and reductions that learn as well."""
    tower = {"dtype": dtype, "reduce": [{"type": "resampler", "queries": 4, "heads": 2}]}
    train = {"projector": "full", "reduce": "full", "llm": {"lora": {"rank": 2}}}
    stage = {**FINETUNE, "train": train, "precision": precision}
    written = config(tiny_llm, stage, tower=tower)
    written["llm"] = {"weights": str(tiny_llm), "dtype": dtype}
    model, made = prepared(written)
    before = {name: value.clone() for name, value in trained_state(model).items()}
    assert {value.dtype for value in before.values()} == {torch.float32}
    run = trainer(model, made, samples(model, 4), tmp_path)
    run.train()
    after = trained_state(model)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(after[name], value) for name, value in before.items() if ".reductions." in name)
    assert any(not torch.equal(after[name], value) for name, value in before.items() if ".lora_" in name)
