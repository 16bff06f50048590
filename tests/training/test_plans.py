"""What `vita plan` says of the stages of a training, beside the tensors of a real run of the same config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from typer.testing import CliRunner

from vita_core import VitaError
from vita_core.adapters import save_adapter
from vita_core.cli import app
from vita_core.config.configfiles import shipped_configs
from vita_core.config.training import PartSettings
from vita_core.models.building import build
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import resolve
from vita_core.planning.training import StagePlan, plan_stages, rank_memory
from vita_core.training.joint import Joint, collate
from vita_core.training.parts import prepare_parts, roots, table
from vita_core.training.stages import resolve_stages
from vita_core.training.trainer import StageTrainer

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
RESAMPLER = {"type": "resampler", "queries": 4, "width": 32, "heads": 2}
HALF = {"precision": "bfloat16"}
ALIGN: dict[str, Any] = {"train": {"projector": "full"}}
LORA: dict[str, Any] = {"train": {"projector": "full", "llm": {"lora": {"rank": 4}}, "tower": {"from_layer": 2}}}
TARGETS = {"lora": {"rank": 2, "targets": ["q_proj", "mlp.down_proj"]}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = {
    "align": ({"weights": "siglip"}, {}, [ALIGN]),
    "half": ({"weights": "siglip", "dtype": "bfloat16"}, {"dtype": "bfloat16"}, [ALIGN | HALF, LORA | HALF]),
    "LoRA, then all": (
        {"weights": "clip"},
        {"dtype": "bfloat16"},
        [
            LORA,
            {"train": {"projector": "full", "llm": "full", "tower": "full"}},
            {"train": {"llm": LORA["train"]["llm"]}},
        ],
    ),
    "adapters in the tower": (
        {"weights": "internvit"},
        {},
        [{"train": {"projector": "full", "tower": {"lora": {"rank": 3}}, "llm": {"from_layer": 2}}}],
    ),
    "final norm": ({"weights": "clip", "norm": True, "select_layer": -1}, {}, [LORA]),
    "blocks that do not run": (
        {"weights": "siglip", "layers": "all", "select_layer": 2},
        {},
        [{"train": {"projector": "full", "tower": {"from_layer": 2}}}, {"train": {"tower": {"lora": {}}}}],
    ),
    "a CNN": (
        {"weights": "mobilenet", "type": "torchvision", "options": {"architecture": "mobilenet_v2"}, "pool": 1},
        {},
        [{"train": {"projector": "full", "tower": {"from_layer": 3}}}],
    ),
    "reduction": (
        {"weights": "siglip", "reduce": RESAMPLER},
        {},
        [{"train": {"projector": "full", "reduce": "full"}}, {"train": {"llm": TARGETS}}],
    ),
}


def measured(trainer: StageTrainer, batch: Mapping[str, Any]) -> tuple[int, int, int]:
    """Bytes of the weights, of their gradients after a backward pass, and of AdamW's moments after a step."""
    joint: Any = trainer.model
    joint.zero_grad()
    joint(batch).backward()
    gradients = [value.grad for value in joint.parameters() if value.grad is not None]
    weights = size(joint.parameters())
    joint.zero_grad()
    trainer.train()
    states = trainer.optimizer.state.values()
    return weights, size(gradients), size(one for state in states for key, one in state.items() if key != "step")


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def planned(config: Any, processes: int = 1) -> list[StagePlan]:
    resolved = resolve(config, offline=True)
    stages = resolve_stages(resolved, resolved.config.data or ["data"], processes)
    return plan_stages(resolved, make_plan(resolved), [stage.settings for stage in stages], processes)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_bytes_are_those_of_a_real_run(
    case: tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]], tiny_llm: Path, tmp_path: Path
) -> None:
    tower, llm, stages = case
    names = [{"name": f"s{at}", "learning_rate": 1e-3, "steps": 1, "batch_size": 1, **s} for at, s in enumerate(stages)]
    place = GOLDEN / tower["weights"]
    if tower.get("type") == "torchvision":
        place = tmp_path / "mobilenet.safetensors"
        save_file(torchvision.models.mobilenet_v2(weights=None).state_dict(), place)
    config = {
        "tower": {**tower, "weights": str(place)},
        "llm": {"weights": str(tiny_llm), **llm},
        "device": "cpu",
        "training": {"stages": names},
    }
    resolved = resolve(config, offline=True)
    model = build(resolved, untrained=True)
    for plan, stage in zip(planned(config), resolve_stages(resolved, ["data"]), strict=True):
        prepare_parts(model, stage.parts, stage.key)
        pixels = torch.randn(1, *model.tower.shape.pixels)
        sample = {"input_ids": torch.tensor([3, -200, 5, 6]), "labels": torch.tensor([-100, -100, 5, 6])}
        data: Any = [sample | {"pixels": [pixels], "sizes": [(56, 56)]}]
        trainer = StageTrainer(Joint(model), stage, data, None, tmp_path / stage.name, steps=1, seed=0, keep=1)
        one = plan.memory["ddp"]
        assert (one.weights, one.gradients, one.optimizer) == measured(trainer, collate(data))
        assert [(row.part, row.how, row.parameters) for row in table(model, stage.parts)] == [
            (part.part, part.how, part.parameters) for part in plan.parts
        ]


def test_an_adapter_that_is_there_counts(tiny_llm: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"tower": {"weights": str(GOLDEN / "siglip")}, "llm": {"weights": str(tiny_llm)}}
    model = build(resolve(config))
    prepare_parts(model, {part: PartSettings.model_validate({"lora": {}}) for part in ("projector", "llm")}, "stage")
    for part in ("projector", "llm"):
        save_adapter(roots(model)[part], tmp_path / part)
    config["llm"] |= {"adapter": str(tmp_path / "llm")}
    config["projector"] = {"adapter": str(tmp_path / "projector")}
    trained = {"projector": "full", "llm": {"lora": {"rank": 1}}}
    config["training"] = {"stages": [{"name": "a", "learning_rate": 1e-3, "train": trained}]}
    (plan,) = planned(config)
    parts = resolve_stages(resolve(config), ["data"])[0].parts
    model = build(resolve(config))
    prepare_parts(model, parts, "stage")
    rows = [(row.part, row.parameters, row.trained) for row in table(model, parts)]
    assert rows == [(part.part, part.parameters, part.trained) for part in plan.parts]


def test_shares_and_zero3() -> None:
    """FSDP2 shares what DDP keeps; ZeRO-3 has 2 + 2 + 12 bytes of a trained value in half precision (arXiv 1910.02054)."""
    plan = planned("recipes/llava-1.5", 8)[1]
    trained = 20_979_712 + 6_738_415_616
    frozen = 290_911_232
    ddp, fsdp2, zero3 = plan.memory.values()
    assert (ddp.weights, ddp.gradients, ddp.optimizer) == (4 * trained + 2 * frozen, 4 * trained, 8 * trained)
    assert (fsdp2.weights * 8, fsdp2.gradients * 8, fsdp2.optimizer * 8) == (ddp.weights, ddp.gradients, ddp.optimizer)
    assert (zero3.weights * 8, zero3.gradients * 8) == (2 * (trained + frozen), 2 * trained)
    assert zero3.optimizer * 8 == 12 * trained
    whole = rank_memory(plan.parts, "zero3", 1, "float32")
    assert (whole.weights, whole.gradients, whole.optimizer) == (ddp.weights, 4 * trained, 12 * trained)


def test_flops_and_tokens_of_llava() -> None:
    """3 F of what is trained, 2 F of what a gradient passes, F of the rest; and F again where activations are recomputed."""
    made = make_plan("recipes/llava-1.5")
    tower, projector, llm = (stage.flops for stage in made.stages[1:])
    llm = llm // 576 * 2048
    align, finetune = planned("recipes/llava-1.5")
    assert (align.tokens, align.visual) == (256 * 2048, 256 * 576)
    assert align.flops == 256 * (tower + 4 * projector + 3 * llm)
    assert finetune.flops == 128 * (tower + 4 * projector + 4 * llm)
    resolved = resolve("recipes/llava-1.5", offline=True)
    stage = finetune_from(resolved, {"tower": {"from_layer": 20}, "llm": {"lora": {"rank": 8}}})
    (plan,) = plan_stages(resolved, made, [stage])
    adapter = 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    block = resolved.tower.shape.stages[1].macs
    assert plan.flops == 128 * (
        2 * (resolved.tower.macs + 2 * 4 * block) + 2 * projector + 2 * llm + 2 * 3 * adapter * 2048
    )
    assert {part.part: part.trained for part in plan.parts} == {
        "tower": 4 * resolved.tower.shape.stages[1].parameters,
        "projector": 0,
        "llm": adapter,
    }


def finetune_from(resolved: Any, train: dict[str, Any]) -> Any:
    stage = resolved.config.training.stages[1]
    data = stage.model_dump(exclude_unset=True) | {"train": train, "checkpointing": False}
    return type(stage).model_validate(data)


def test_layers_that_are_not_known_are_said(tiny_llm: Path, tmp_path: Path) -> None:
    for file in tiny_llm.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | {"model_type": "phi3"}))
    for how in ({"lora": {}}, {"from_layer": 1}):
        stage = {"name": "a", "learning_rate": 1e-3, "train": {"projector": "full", "llm": how}}
        config = {
            "tower": {"weights": str(GOLDEN / "siglip")},
            "llm": {"weights": str(tmp_path)},
            "training": {"stages": [stage]},
        }
        (plan,) = planned(config)
        assert plan.limit == "context"
        assert (plan.unknown, plan.memory, plan.flops) == (("llm",), {}, None)


def test_some_of_several_encoders_are_named_and_not_counted(tiny_llm: Path) -> None:
    how = {"from_layer": 2, "towers": [1]}
    stage = {"name": "one", "learning_rate": 1e-3, "steps": 1, "train": {"projector": "full", "tower": how}}
    towers = [{"weights": str(GOLDEN / name)} for name in ("clip", "siglip")]
    (plan,) = planned({"tower": {"towers": towers}, "llm": {"weights": str(tiny_llm)}, "training": {"stages": [stage]}})
    assert plan.parts[0].how == "from layer 2 of tower 1"
    assert (plan.unknown, plan.memory) == (("tower",), {})


def test_the_page_shows_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    output = CliRunner().invoke(app, ["plan", "recipes/llava-1.5", "--processes", "8"]).output
    page = (GOLDEN.parent.parent.parent / "docs" / "train.md").read_text()
    assert f"```text\n{output[output.index('stage finetune') :]}```" in page


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("recipes/")])
def test_the_command_plans_each_recipe_without_a_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text = CliRunner().invoke(app, ["plan", name, "--processes", "8"])
    assert text.exit_code == 0, text.output
    for word in ("of them trained", "GB on each of 8 GPUs", "ddp", "fsdp2", "zero3", "activations (estimate)"):
        assert text.output.count(word) == 2, word
    found = json.loads(CliRunner().invoke(app, ["plan", name, "--processes", "8", "--json"]).output)["training"]
    assert [stage["name"] for stage in found] == [stage.name for stage in planned(name, 8)]
    assert set(found[0]["memory"]["ddp"]) == {"weights", "gradients", "optimizer", "activations"}


def test_a_batch_that_the_gpus_cannot_share_is_refused() -> None:
    with pytest.raises(VitaError, match=r"stages\[0\]\.batch_size: 256 samples cannot be shared by 3 processes"):
        planned("recipes/llava-1.5", 3)
