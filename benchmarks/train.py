"""Time the steps of `vita train` beside the same loop driven by hand with transformers' own LlavaForConditionalGeneration.

The weights, pixels and tokens are the same, and the script checks that the losses are. The model has random weights: a CLIP
ViT-B/16 at 224 pixels and a language model of the width of SmolLM2-135M, each with `--layers` layers. A sample has 196
visual and 64 text tokens, of which 48 are an answer. Memory is what torch allocates for the steps, beside the weights.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import once, ratio, report
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    TrainerCallback,
    get_scheduler,
)
from watched import held

from vita_core import build_model
from vita_core.config.training import StageConfig
from vita_core.training.cache.frozen import FrozenTower
from vita_core.training.cache.store import FeatureStore
from vita_core.training.data import PictureRef
from vita_core.training.joint import Joint
from vita_core.training.parts import prepare_parts
from vita_core.training.stages import Stage
from vita_core.training.trainer import StageTrainer

IMAGE, TOKENS, TEXT, ANSWER, RATE = 49151, 196, 64, 48, 1e-3
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TRAINS: dict[str, dict[str, Any]] = {
    "alignment": {"projector": "full"},
    "LoRA": {"projector": "full", "llm": {"lora": {"rank": 16}}},
}
GOALS = {"time": 1.05, "memory": 0.9, "cached": 1.1}


def saved(folder: Path, layers: int) -> None:
    """Save the model with random weights, as transformers saves it."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=layers + 1,
                              num_attention_heads=12, image_size=224, patch_size=16)  # fmt: skip
    text = LlamaConfig(vocab_size=IMAGE + 1, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
                       num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=False)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2,
                         tie_word_embeddings=False)  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    words = {f"w{number}": number for number in range(IMAGE + 1)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1").save_pretrained(folder)


def samples(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return samples with random pictures and tokens; `path` is the picture's file."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        picture, path = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), folder / f"{number}.png"
        Image.fromarray(picture).save(path)
        text = torch.from_numpy(rng.integers(2, IMAGE, TEXT))
        ids = torch.cat([text[:4], torch.tensor([-200]), text[4:]])
        labels = ids.clone()
        labels[:-ANSWER] = -100
        pixels = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - 0.5)[None]
        made.append({"input_ids": ids, "labels": labels, "pixels": [pixels], "sizes": [(224, 224)], "path": path})
    return made


def joined(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch as transformers' model takes it: the place of a picture is one token for each of its tokens."""

    def widened(values: torch.Tensor, filling: int) -> torch.Tensor:
        return torch.cat([values[:4], torch.full((TOKENS,), filling), values[5:]])

    return {
        "input_ids": torch.stack([widened(row["input_ids"], IMAGE) for row in rows]),
        "labels": torch.stack([widened(row["labels"], -100) for row in rows]),
        "pixel_values": torch.cat([row["pixels"][0] for row in rows]),
    }


class Clock(TrainerCallback):
    """The CPU seconds from the first step to the end of the last, without what a checkpoint takes."""

    def __init__(self) -> None:
        self.start: float | None = None
        self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.process_time() if self.start is None else self.start

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.process_time() - (self.start or 0.0)


Side = Callable[[], tuple[float, list[float]]]
"""It trains a few steps, and returns the CPU seconds and the losses."""


def ours(model: Any, train: dict[str, Any], data: Any, batch: int, folder: Path, frozen: FrozenTower | None) -> Side:
    """Return the steps as `vita train` runs them."""
    settings = StageConfig.model_validate(
        {
            "name": "stage",
            "train": train,
            "learning_rate": RATE,
            "batch_size": batch,
            "steps": len(data) // batch,
            "warmup": 0.0,
        }
    )
    stage = Stage("stage", settings, settings.train.trained, ("data",))
    prepare_parts(model, stage.parts, "stage")
    joint = Joint(model, frozen)

    def run() -> tuple[float, list[float]]:
        clock = Clock()
        trainer = StageTrainer(
            joint, stage, data, None, folder, steps=len(data) // batch, seed=0, keep=1, callbacks=[clock]
        )
        trainer.train()
        return clock.seconds, [row["loss"] for row in trainer.state.log_history if "loss" in row]

    return run


def by_hand(loss_of: Callable[[Any], torch.Tensor], module: Any, batches: Sequence[Any]) -> Side:
    """Return the same steps as a plain loop. `loss_of` returns the loss of a batch."""
    parameters = [value for value in module.parameters() if value.requires_grad]

    def run() -> tuple[float, list[float]]:
        optimizer, losses = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0), []
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=len(batches))
        start = time.process_time()
        for batch in batches:
            loss = loss_of(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return time.process_time() - start, losses

    return run


def prepared(model: Any, train: dict[str, Any]) -> Any:
    """Return transformers' model with the same parts trained."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    if "llm" in train:
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR)
        inject_adapter_in_model(lora, model.model.language_model)
    return model


class Read:
    """The samples with what the cache has of their pictures, read from disk each time."""

    def __init__(self, rows: Sequence[dict[str, Any]], frozen: FrozenTower) -> None:
        self.rows, self.frozen = rows, frozen

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return row | {"pixels": [self.frozen.visual(PictureRef(row["path"].name, row["path"]), several=False)]}


def measured(sides: dict[str, Side], rounds: int, same: int | None = None) -> dict[str, Any]:
    """Return the ratios of time and memory of the side `ours` and the side `hand`.

    The losses of the first `same` steps must be the same: adapters start at other random values on each side.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    first = {name: side()[1] for name, side in sides.items()}
    torch.testing.assert_close(first["ours"][:same], first["hand"][:same], rtol=1e-3, atol=1e-3)
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            gc.collect()
            times[name].append(sides[name]()[0])
    taken = {name: held(lambda _, side=side: torch.tensor(side()[0]), None)[0] for name, side in sides.items()}
    return {
        "time, ours / by hand": ratio(times, "ours", "hand"),
        "memory, ours / by hand": once(taken["ours"] / taken["hand"]),
        "seconds a step": min(times["ours"]) / len(first["ours"]),
        "MB": taken["ours"] / 1e6,
    }


def cached(folder: Path, rows: list[dict[str, Any]], batch: int, rounds: int) -> dict[str, Any]:
    """Return the row of an epoch from the cache, beside the projector and the language model on features in memory."""
    model = build_model(folder)
    frozen = FrozenTower(model, FeatureStore(folder / "cache", 10**9), "float32")
    data = Read(rows, frozen)
    side = ours(model, TRAINS["alignment"], data, batch, folder / "run", frozen)
    with torch.no_grad():
        frozen.encode_each([picture for row in range(len(rows)) for picture in data[row]["pixels"]])
    frozen.flush()
    features = [data[row]["pixels"][0].tokens for row in range(len(rows))]
    theirs = prepared(LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32), TRAINS["alignment"])
    own = theirs.model

    def loss_of(place: int) -> torch.Tensor:
        whole = joined(rows[place : place + batch])
        seen = own.multi_modal_projector(torch.cat(features[place : place + batch]))
        embeds = own.get_input_embeddings()(whole["input_ids"].clamp(max=IMAGE))
        embeds = torch.cat([embeds[:, :4], seen, embeds[:, 4 + TOKENS :]], dim=1)
        hidden = own.language_model(inputs_embeds=embeds).last_hidden_state
        logits = theirs.lm_head(hidden[:, -ANSWER - 1 : -1])  # no token but those of the answer is needed
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), whole["labels"][:, -ANSWER:].flatten())

    hand = by_hand(loss_of, theirs, range(0, len(rows), batch))
    return {"what": "alignment, from the cache", **measured({"ours": side, "hand": hand}, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 layers, 2 steps of 2 samples, 3 rounds.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    layers, steps, batch, rounds = arguments.layers, arguments.steps, arguments.batch, arguments.rounds
    if arguments.quick:
        layers, steps, batch, rounds = 3, 2, 2, 3
    torch.set_num_threads(1)
    result, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved(folder, layers)
        rows = samples(folder, steps * batch)
        batches = [joined(rows[start : start + batch]) for start in range(0, len(rows), batch)]
        for what, train in TRAINS.items():
            model = build_model(folder)
            frozen = FrozenTower(model, None, "float32")
            side = ours(model, train, rows, batch, folder / "run", frozen)
            theirs = prepared(LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32), train)
            hand = by_hand(lambda given, theirs=theirs: theirs(**given).loss, theirs, batches)
            result.append(
                {"what": what, **measured({"ours": side, "hand": hand}, rounds, 1 if what == "LoRA" else None)}
            )
            del model, frozen, side, theirs, hand
        result.append(cached(folder, rows, batch, rounds))
    claim = f"steps of a training, ours / transformers by hand; goals: {GOALS}"
    report("train", claim, list(result[0]), result, goals=GOALS, layers=layers, batch=batch, load=round(load, 1))


if __name__ == "__main__":
    main()
