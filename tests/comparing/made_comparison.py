"""The files of a comparison, as `vita compare` writes them, with made numbers: what the page is drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEEDS = (0, 1, 2)
STEPS = 150


def interval(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def config(name: str, place: int, unequal: Sequence[str] = ()) -> dict[str, Any]:
    """A config that finished. The later its place, the fewer pictures it names."""
    named, loss = 0.84 - 0.11 * place, 0.61 + 0.23 * place
    steps = range(5, STEPS + 1, 5)
    falling = {step: loss + 3.1 * 2.718 ** (-step / (25 + 9 * place)) for step in steps}
    return {
        "name": name,
        "failed": None,
        "unequal": list(unequal),
        "tower": ("torchvision", "transformers", "torchvision + transformers")[place % 3],
        "weights": ("mobilenet_v2.pth", "vit-s14", "mobilenet_v2.pth + vit-s14")[place % 3],
        "tokens": 4,
        "tokens_before": (49, 256, 4)[place % 3],
        "hidden_size": (1280, 384, 1664)[place % 3],
        "parameters": {
            "tower": 2223872 * (1 + 9 * place),
            "reduce": 0,
            "projector": 1069632 + 7 * place,
            "llm": 134515008,
        },
        "flops_per_picture": (0.61 + 4.3 * place) * 1e9,
        "learning_rate": 0.001,
        "config": {"tower": {"weights": "vit-s14"}, "device": "cpu"},
        "tuning": [
            {"learning_rate": rate, "validation_loss": loss + abs(rate - 0.001) * 90} for rate in (0.0003, 0.001, 0.003)
        ],
        "loss": interval(loss, 0.08),
        "named": interval(named, 0.045),
        "shuffled": interval(0.012 + 0.002 * place, 0.009),
        "seeds": [
            {"seed": seed, "loss": loss + 0.03 * (seed - 1), "named": named + 0.02 * (1 - seed), "shuffled": 0.012}
            for seed in SEEDS
        ],
        "curve": [
            {"step": step, "loss": value, "low": value * 0.94, "high": value * 1.07} for step, value in falling.items()
        ],
    }


def failed(name: str, reason: str) -> dict[str, Any]:
    """A config that failed."""
    nothing: dict[str, Any] = {
        "failed": reason,
        "loss": None,
        "named": None,
        "shuffled": None,
        "seeds": [],
        "curve": [],
    }
    return {**config(name, 1), **nothing, "tuning": []}


def pairs(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for first, second in combinations([one for one in configs if one["failed"] is None], 2):
        for measure, half in (("named", 0.05), ("loss", 0.09)):
            difference = first[measure]["mean"] - second[measure]["mean"]
            shown = abs(difference) > 2.5 * half
            tested = {"p": 0.0004 if shown else 0.21, "p_holm": 0.0061 if shown else 0.42, "significant": shown}
            bounds = {"low": difference - half, "high": difference + half, "needed": None if shown else 1240}
            rows.append(
                {
                    "a": first["name"],
                    "b": second["name"],
                    "measure": measure,
                    "difference": difference,
                    **bounds,
                    **tested,
                }
            )
    return rows


def cka(names: Sequence[str]) -> dict[str, Any]:
    def likeness(count: int) -> list[list[float]]:
        return [[round(0.93 ** abs(a - b) - 0.05 * (a != b), 6) for b in range(count)] for a in range(count)]

    layers = {names[1]: {"layers": [0, 2, 4, 6, 8, 9, 10, 11, 12], "matrix": likeness(9)}} if len(names) > 1 else {}
    return {"towers": list(names), "matrix": likeness(len(names)), "pictures": 128, "layers": layers}


def write_comparison(
    folder: Path,
    configs: Sequence[Mapping[str, Any]],
    captions: Sequence[str] = ("a cat", "a red cup"),
    answer: str = "a photo of ",
) -> dict[str, Any]:
    """Write comparison.json, timings.json and page/ for some configs, and return the comparison."""
    alive = [one["name"] for one in configs if one["failed"] is None]
    (folder / "page").mkdir(parents=True)
    examples = []
    for place, caption in enumerate(captions):
        Image.new("RGB", (96, 64), (40 * place % 256, 90, 160)).save(folder / "page" / f"{place}.jpg")
        maps = {}
        for number, name in enumerate(alive):
            maps[name] = f"{place}-{number}.png"
            levels = np.random.default_rng(place * 10 + number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(levels).resize((64, 64), Image.Resampling.NEAREST).save(folder / "page" / maps[name])
        right = {name: (place + number) % 3 != 2 for number, name in enumerate(alive)}
        answers = {name: f"{answer}{caption}" if right[name] else "a dog" for name in alive}
        examples.append(
            {
                "image": f"{place:04}.jpg",
                "caption": caption,
                "answers": answers,
                "named": right,
                "thumbnail": f"{place}.jpg",
                "maps": maps,
            }
        )
    unequal = [f"{one['name']}: {reason}" for one in configs for reason in one["unequal"]]
    comparison = {
        "format": 1,
        "verdict": f"Take {alive[0]}: it names 11.0 points more of the pictures than the others."
        if alive
        else "No config finished.",
        "notes": [f"{one['name']} failed: {one['failed']}" for one in configs if one["failed"] is not None],
        "unequal": unequal,
        "data": {
            "name": "photos",
            "train": 1960,
            "validation": 420,
            "test": 420,
            "groups": 2788,
            "sha256": "5d1f" * 16,
            "test_groups": 417,
        },
        "settings": {
            "seeds": list(SEEDS),
            "tokens": 4,
            "steps": STEPS,
            "tune": {"learning_rate": [0.0003, 0.001, 0.003]},
            "resamples": 10000,
            "command": f"vita compare {' '.join(f'{name}.yaml' for name in alive)} --data photos --seeds 3 --out DIR",
        },
        "configs": list(configs),
        "pairs": pairs(configs),
        "cka": cka(alive),
        "examples": examples if alive else [],
    }
    timings = {
        name: {
            "ms_per_picture": {"median": 9.5 * (1 + place), "low": 9.1 * (1 + place), "high": 11.0 * (1 + place)},
            "peak_bytes": 1.9e9 + 1e8 * place,
            "training_seconds": {"median": 1260 + place, "low": 1240, "high": 1301},
        }
        for place, name in enumerate(alive)
    }
    (folder / "comparison.json").write_text(
        json.dumps(comparison, indent=1, ensure_ascii=False, sort_keys=True), encoding="utf-8"
    )
    (folder / "timings.json").write_text(json.dumps(timings, indent=2), encoding="utf-8")
    return comparison
