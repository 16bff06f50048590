"""Time the quickstart's answers (SmolLM2-135M, one of its two encoders): in batches, one by one, and driven by hand."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import alternate, ratio, report
from photos import write_photos
from PIL import Image

from vita_core import build_model, load_config
from vita_core.language.llm import PICTURE_ID
from vita_core.language.merging import merge
from vita_core.models.model import VisionLanguageModel
from vita_core.pixels.prefetching import prefetched

BATCHES = (8, 16, 32)
ONE_SIZE = "tower={weights: asset:efficientnet-lite2, pool: 1, options: {class_scores: true, crop_pct: 1.0}}"
"""The first of the quickstart's two encoders alone, so that all modules can be driven by hand."""


def by_hand(model: VisionLanguageModel) -> Callable[[Path], str]:
    """Return a function that asks about a picture with the same modules, called as one would without this package.

    The image processor is the model's own, called for one picture at a time.
    """
    tokenizer, llm = model.llm.tokenizer, model.llm.model
    processor, embed = model.tower.image_processor, llm.get_input_embeddings()
    question, limit = model.settings.prompt.question, model.settings.generation.max_new_tokens

    @torch.inference_mode()
    def ask(path: Path) -> str:
        pixels = processor.preprocess(Image.open(path).convert("RGB"), return_tensors="pt")["pixel_values"]
        visual = model.encode_images(pixels)[0]
        messages = [{"role": "user", "content": f"<image>\n{question}"}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, after = (
            tokenizer(part, add_special_tokens=False, return_tensors="pt").input_ids for part in text.split("<image>")
        )
        embeds = torch.cat([embed(before[0]), visual, embed(after[0])])[None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        ids = llm.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=limit, do_sample=False,
                           temperature=None, top_p=None, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        answer: str = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        return answer

    return ask


def batched(model: VisionLanguageModel, paths: list[Path], batch: int) -> list[str]:
    """Return the answers, asked in batches as ``vita run --images`` does."""
    with prefetched(paths, model.prepare, batch=batch) as batches:
        return [answer.text for pictures in batches for answer in model.ask_each(pictures)]


def overhead(model: VisionLanguageModel, path: Path, rounds: int) -> float:
    """Return the time of prompt and merge, divided by the time to the first token (medians)."""
    picture, prompt = model.prepare(path), model.settings.prompt
    with torch.inference_mode():
        visual = model.encode_images(picture.pixels)
    took = []
    for _ in range(20):
        start = time.perf_counter()
        ids = model.llm.prompt(prompt, prompt.question, 1)
        assert PICTURE_ID in ids
        with torch.inference_mode():
            merge([ids], [[visual[0]]], model.llm.embed)
        took.append(time.perf_counter() - start)
    first = [model.ask(path).timings["first_token"] for _ in range(rounds)]
    return statistics.median(took) / statistics.median(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Use 4 photos and 4 rounds.")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    count, rounds, sizes = (4, 4, (4,)) if arguments.quick else (32, arguments.rounds, BATCHES)
    transformers.utils.logging.disable_progress_bar()
    model = build_model(load_config("quickstart", ["device=cpu", ONE_SIZE]))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), count, (500,))
        hand = by_hand(model)
        one = [model.ask(path).text for path in paths]
        assert one == [hand(path) for path in paths]
        sides: dict[str, Callable[[], Any]] = {
            "one": lambda: [model.ask(path) for path in paths],
            "hand": lambda: [hand(path) for path in paths],
        }
        for size in sizes:
            assert one == batched(model, paths, size)
            sides[f"batch {size}"] = lambda size=size: batched(model, paths, size)
        times = alternate(sides, rounds)
        for size in sizes:
            rows.append(
                {"what": f"batch of {size} / one by one", "ratio": ratio(times, f"batch {size}", "one"), "goal": 0.333}
            )
        rows.append({"what": "ours / by hand", "ratio": ratio(times, "one", "hand"), "goal": 1.02})
        rows.append(
            {"what": "prompt and merge / first token", "ratio": overhead(model, paths[0], rounds), "goal": 0.03}
        )
    seconds = {side: round(min(taken) / count, 4) for side, taken in times.items()}
    report("generate", "answers of the quickstart", ["what", "ratio", "goal"], rows, photos=count, answers=one[:6],
           seconds_each=seconds, threads=torch.get_num_threads(), torch=torch.__version__)  # fmt: skip


if __name__ == "__main__":
    main()
