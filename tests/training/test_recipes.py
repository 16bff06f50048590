"""The stages of the recipe of LLaVA-1.5 on a tiny model, beside LLaVA's own arithmetic: transformers' model in a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import llava
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, get_cosine_schedule_with_warmup

from vita_core import build_model, load_config
from vita_core.config.training import StageConfig
from vita_core.training.joint import Joint
from vita_core.training.parts import prepare_parts
from vita_core.training.stages import Stage
from vita_core.training.trainer import StageTrainer

RATES = ("learning_rate", "batch_size", "accumulate", "epochs", "steps", "warmup", "weight_decay", "max_length")
WAYS = ("precision", "prompt", "group_by_length")
SCRIPTS: dict[str, dict[str, tuple[dict[str, str], tuple[Any, ...], tuple[Any, ...]]]] = {
    # scripts/v1_5/pretrain.sh and finetune.sh in haotian-liu/LLaVA, on the 8 GPUs of its README
    "llava-1.5": {
        "align": ({"projector": "full"}, (1e-3, 256, 1, 1, 0, 0.03, 0.0, 2048), ("bfloat16", "plain", False)),
        "finetune": (
            {"projector": "full", "llm": "full"},
            (2e-5, 128, 1, 1, 0, 0.03, 0.0, 2048),
            ("bfloat16", "vicuna_v1", True),
        ),
    },
    # internvl_chat/shell/internvl2.5/stage1 and stage2 of the 1B model in OpenGVLab/InternVL, on 512 GPUs
    "internvl": {
        "warmup": (
            {"projector": "full"},
            (2e-4, 512, 1, 0, 100_000, 100 / 100_000, 0.01, 16_384),
            ("bfloat16", "internvl2_5", False),
        ),
        "finetune": (
            {"tower": "full", "projector": "full", "llm": "full"},
            (4e-5, 512, 1, 0, 22_000, 0.03, 0.01, 16_384),
            ("bfloat16", "internvl2_5", False),
        ),
    },
    # scripts/train/train_tinyllama.sh, pretrain.sh and finetune.sh in TinyLLaVA/TinyLLaVA_Factory, on 4 GPUs
    "tinyllava": {
        "align": (
            {"projector": "full"},
            (1e-3, 4 * 32 * 2, 2, 1, 0, 0.03, 0.0, 2048),
            ("float16", "plain", False),
        ),
        "finetune": (
            {"projector": "full", "llm": "full"},
            (2e-5, 4 * 8 * 4, 4, 1, 0, 0.03, 0.0, 2048),
            ("float16", "vicuna_v1", True),
        ),
    },
}
"""The values of the authors' scripts: what each stage trains, its `RATES` (0 for none) and its `WAYS`."""
MODELS = {
    "llava-1.5": ("openai/clip-vit-large-patch14-336", -2, "mlp2x_gelu", "lmsys/vicuna-7b-v1.5"),
    "internvl": ("OpenGVLab/InternViT-300M-448px-V2_5", -1, "mlp2x_gelu", "Qwen/Qwen2.5-0.5B-Instruct"),
    "tinyllava": ("google/siglip-so400m-patch14-384", -2, "mlp2x_gelu", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
}
STAGES = load_config("recipes/llava-1.5").training.stages or []
STEPS, BATCH = 40, 2
ROWS = [
    ([3, -200, 5, 6, 7, 8], [-100, -100, -100, 6, 7, 8]),
    ([4, -200, 9, 10], [-100, -100, 9, 10]),
    ([-200, 11, 12, 13, 1], [-100, -100, 12, 13, 1]),
    ([-200, 14, 1], [-100, 14, 1]),
]
# learning rate, batch, epochs, weight decay and length of scripts/v1_5 and LLaVA's README; the steps of 558K and 665K samples
PUBLISHED = {"align": (1e-3, 256, 1, 0.0, 2048, 2181), "finetune": (2e-5, 128, 1, 0.0, 2048, 5198)}


class Recorded(StageTrainer):
    """Keeps the loss of each step."""

    losses: list[float]

    def compute_loss(self, *args: Any, **keywords: Any) -> Any:
        loss = super().compute_loss(*args, **keywords)
        self.losses = [*vars(self).get("losses", ()), loss.item()]
        return loss


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Keeps the learning rate and the projector's gradient at each step of the optimiser."""

    def __init__(self, projector: Any) -> None:
        self.projector, self.rates, self.gradients = projector, [], []

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        self.rates.append({group["lr"] for group in given["optimizer"].param_groups})
        self.gradients.append([layer.weight.grad.clone() for layer in (self.projector[0], self.projector[2])])


def samples() -> list[dict[str, Any]]:
    torch.manual_seed(1)
    seen = [torch.randn(1, 3, llava.SIDE, llava.SIDE) for _ in ROWS]
    made = [
        {"input_ids": torch.tensor(ids), "labels": torch.tensor(own), "pixels": [one], "sizes": [(llava.SIDE,) * 2]}
        for (ids, own), one in zip(ROWS, seen, strict=True)
    ]
    return [made[at % len(made)] for at in range(STEPS * BATCH)]


def trainer_of(settings: StageConfig, model: Any, folder: Path, steps: int = STEPS) -> Recorded:
    """A trainer of a stage of the recipe, in float32, which the comparison to 1e-5 needs, and with a smaller batch."""
    changed = {"precision": "float32", "checkpointing": False, "batch_size": BATCH, "steps": steps, "epochs": None}
    stage = Stage("stage", settings.model_copy(update=changed), settings.train.trained, ())
    prepare_parts(model, stage.parts, stage.key)
    return Recorded(Joint(model), stage, samples(), None, folder / "work", steps=steps, seed=0, keep=1)


def expanded(rows: list[dict[str, Any]], tokens: int) -> dict[str, Tensor]:
    """A batch as transformers' model takes it: with one id for each visual token, padded on the right."""
    found: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    longest = max(len(row["input_ids"]) for row in rows) - 1 + tokens
    for row in rows:
        ids, own = row["input_ids"].tolist(), row["labels"].tolist()
        at, spare = ids.index(-200), longest - len(ids) + 1 - tokens
        found["input_ids"].append([*ids[:at], *[llava.IMAGE_TOKEN] * tokens, *ids[at + 1 :], *[0] * spare])
        found["labels"].append([*own[:at], *[-100] * tokens, *own[at + 1 :], *[-100] * spare])
        found["attention_mask"].append([1] * (longest - spare) + [0] * spare)
    batch = {key: torch.tensor(value) for key, value in found.items()}
    return batch | {"pixel_values": torch.cat([row["pixels"][0] for row in rows])}


def plain_loop(model: Any, settings: StageConfig, tokens: int) -> tuple[list[float], list[float], list[list[Tensor]]]:
    """Losses, learning rates and the projector's gradients of LLaVA's training: AdamW, clipping, cosine with a warm-up."""
    projector = model.model.multi_modal_projector
    model.requires_grad_(settings.name == "finetune")
    model.model.vision_tower.requires_grad_(False)
    projector.requires_grad_(True)
    chosen = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=PUBLISHED[settings.name][0], weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.03 * STEPS), STEPS)
    losses, rates, gradients, rows = [], [], [], samples()
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**expanded(rows[step * BATCH : (step + 1) * BATCH], tokens)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        losses.append(loss.item())
        rates.append(schedule.get_last_lr()[0])
        gradients.append([layer.weight.grad.clone() for layer in (projector.linear_1, projector.linear_2)])
        optimizer.step()
        schedule.step()
    return losses, rates, gradients


@pytest.mark.parametrize("settings", STAGES, ids=[stage.name for stage in STAGES])
def test_a_stage_trains_as_llava_does(settings: StageConfig, tiny_llm: Path, tmp_path: Path) -> None:
    theirs = llava.converted(tmp_path, tiny_llm, next_=False)
    model = build_model(tmp_path)
    trainer, watch = trainer_of(settings, model, tmp_path), Watch(model.projector)
    trainer.add_callback(watch)
    trainer.train()
    losses, rates, gradients = plain_loop(theirs, settings, model.tower.num_tokens)
    assert trainer.losses == pytest.approx(losses, abs=1e-5)
    assert [rate for (rate,) in watch.rates] == pytest.approx(rates, rel=1e-12)
    assert len(set(losses)) == len(losses)  # the weights move
    for ours, expected in zip(watch.gradients, gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", STAGES, ids=[stage.name for stage in STAGES])
def test_the_schedule_of_the_whole_run_is_llavas(settings: StageConfig, tiny_llm: Path, tmp_path: Path) -> None:
    rate, batch, epochs, decay, length, steps = PUBLISHED[settings.name]
    stated = (settings.learning_rate, settings.batch_size, settings.epochs, settings.weight_decay, settings.max_length)
    assert stated == (rate, batch, epochs, decay, length)
    llava.converted(tmp_path, tiny_llm, next_=False)
    trainer = trainer_of(settings, build_model(tmp_path), tmp_path, steps)
    trainer.create_optimizer_and_scheduler(steps)
    theirs = torch.optim.AdamW([torch.zeros(1)], lr=rate)
    expected = get_cosine_schedule_with_warmup(theirs, math.ceil(0.03 * steps), steps).lr_lambdas[0]
    scale = trainer.lr_scheduler.lr_lambdas[0]
    for step in (0, 1, 30, 65, 66, 67, 155, 156, 157, 1000, steps - 1, steps):
        assert scale(step) == pytest.approx(expected(step), rel=1e-12), step


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_recipe_has_the_values_of_its_authors_scripts(name: str) -> None:
    config = load_config(f"recipes/{name}")
    stages = {stage.name: stage for stage in config.training.stages or []}
    assert list(stages) == list(SCRIPTS[name])
    for stage, (parts, rates, ways) in SCRIPTS[name].items():
        found = stages[stage]
        trained = {
            part: how.model_dump(exclude_none=True, exclude_defaults=True) for part, how in found.train.trained.items()
        }
        assert trained == {part: {how: True} for part, how in parts.items()}
        assert tuple(getattr(found, key) or 0 for key in RATES) == pytest.approx(rates, rel=1e-12)
        assert tuple(getattr(found, key) for key in WAYS) == ways
        assert (found.schedule, found.clip, found.checkpointing) == ("cosine", 1.0, True)
    assert config.llm is not None
    assert config.projector is not None
    built = (config.tower.weights, config.tower.select_layer, config.projector.type, config.llm.weights)
    assert built == MODELS[name]
