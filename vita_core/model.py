"""The whole model: pictures and a question in, an answer out. The only file that composes the stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_core.config import Config, ImagesConfig, load_config
from vita_core.errors import ConfigError, VitaError
from vita_core.images import MAX_PIXELS, arrange, open_picture
from vita_core.llm import PICTURE_ID, LanguageModel
from vita_core.projectors import build_projector, check_widths
from vita_core.registry import import_object, registry
from vita_core.resolution import resolve_tower
from vita_core.saving import save_model
from vita_core.sources import locate
from vita_core.specs import LLMSpec
from vita_core.tower import BaseVisionTower, build_tower
from vita_core.validation import validate

__all__ = ["Answer", "Picture", "VisionLanguageModel", "build_model", "merge"]

Picture = str | os.PathLike[str] | Image.Image


@dataclass(frozen=True)
class Answer:
    """One answer and how it came about. `timings` are seconds: pictures, tower, generate, first_token, total."""

    text: str
    token_ids: list[int]
    tower: str
    llm: str
    tiles: list[int]
    visual_tokens: int
    prompt_tokens: int
    timings: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``vita run --json`` prints it."""
        return asdict(self)


class VisionLanguageModel(nn.Module):
    """Tower, projector and language model of one config."""

    def __init__(self, config: Config, tower: BaseVisionTower, projector: nn.Module, llm: LanguageModel) -> None:
        super().__init__()
        self.settings = config
        self.tower = tower
        self.projector = projector
        self.llm = llm

    def pixels(self, picture: Picture) -> Tensor:
        """One picture, opened and arranged as configured: (tiles, 3, H, W)."""
        return picture_pixels(self.tower, self.settings.images, picture)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Pixels (tiles, 3, H, W) -> projected tokens (tiles, N, D)."""
        tokens: Tensor = self.projector(self.tower(pixels).to(self.llm.dtype))
        return tokens

    def ask(
        self,
        pictures: Picture | Sequence[Picture],
        question: str | None = None,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question about one picture or several; `on_text` receives the answer piece by piece.

        Raises PictureError for a picture that cannot be opened, VitaError for a prompt longer than the context.
        """
        images = [pictures] if isinstance(pictures, str | os.PathLike | Image.Image) else list(pictures)
        return self._answer([images], question, system, max_new_tokens, on_text)[0]

    def ask_each(
        self,
        pictures: Sequence[Picture],
        question: str | None = None,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """The same question about each of `pictures`, as one padded batch."""
        return self._answer([[picture] for picture in pictures], question, system, max_new_tokens, None)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory that `build_model` and ``vita run`` open again; see `vita_core.saving.save_model`."""
        save_model(Path(directory), self.settings, self.tower, self.projector, self.llm)

    @torch.inference_mode()
    def _answer(
        self,
        rows: Sequence[Sequence[Picture]],
        question: str | None,
        system: str | None,
        max_new_tokens: int | None,
        on_text: Callable[[str], None] | None,
    ) -> list[Answer]:
        start = time.perf_counter()
        prompt = self.settings.prompt if system is None else self.settings.prompt.model_copy(update={"system": system})
        ids = [self.llm.prompt(prompt, question or prompt.question, len(row)) for row in rows]
        pixels = [[self.pixels(picture) for picture in row] for row in rows]
        opened = time.perf_counter()
        tokens = self._visual_tokens(pixels)
        encoded = time.perf_counter()
        embeds, mask = merge(ids, [[t.flatten(0, 1) for t in row] for row in tokens], self.llm.embed)
        limit = max_new_tokens or self.settings.generation.max_new_tokens
        self._check_context(embeds.shape[1], limit)
        first: list[float] = []

        def piece(text: str) -> None:
            first.append(time.perf_counter())
            if on_text is not None:
                on_text(text)

        generated = self._generate(embeds, mask, limit, piece if len(rows) == 1 else None)
        end = time.perf_counter()
        timings = {
            "pictures": opened - start,
            "tower": encoded - opened,
            "generate": end - encoded,
            "total": end - start,
        }
        if first:
            timings["first_token"] = first[0] - start
        return [self._finished(out, t, m, timings) for out, t, m in zip(generated, tokens, mask, strict=True)]

    def _visual_tokens(self, pixels: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Projected tokens (tiles, N, D) of each picture of each row, all tiles through the tower together."""
        flat = [picture for row in pixels for picture in row]
        if not flat:
            return [[] for _ in pixels]
        tiles = self.encode_images(torch.cat(flat)).split([len(picture) for picture in flat])
        found = iter(tiles)
        return [[next(found) for _ in row] for row in pixels]

    def _check_context(self, prompt_tokens: int, limit: int) -> None:
        context = self.llm.context
        if context is not None and prompt_tokens + limit > context:
            raise VitaError(
                f"the prompt has {prompt_tokens} tokens and {limit} more may be generated, over the language model's "
                f"context of {context}; use fewer pictures or tiles (images.tiles.max), or a lower --max-new-tokens"
            )

    def _generate(
        self, embeds: Tensor, mask: Tensor, limit: int, on_text: Callable[[str], None] | None
    ) -> list[list[int]]:
        settings, tokenizer = self.settings.generation, self.llm.tokenizer
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.llm.stop_id
        output = self.llm.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=limit,
            pad_token_id=pad,
            streamer=self.llm.streamer(on_text) if on_text is not None else None,
            **(
                sampling
                if settings.temperature > 0
                else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            ),
        )
        stops = self.llm.model.generation_config.eos_token_id
        stop_ids = set(stops if isinstance(stops, list) else [self.llm.stop_id])
        rows = []
        for row in output.tolist():
            end = next((i for i, token in enumerate(row) if token in stop_ids), len(row))
            rows.append(row[:end])
        return rows

    def _finished(self, ids: list[int], tokens: Sequence[Tensor], mask: Tensor, timings: dict[str, float]) -> Answer:
        return Answer(
            text=self.llm.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token_ids=ids,
            tower=self.tower.resolved.spec.name,
            llm=self.llm.name,
            tiles=[len(picture) for picture in tokens],
            visual_tokens=sum(picture.shape[0] * picture.shape[1] for picture in tokens),
            prompt_tokens=int(mask.sum()),
            timings={key: round(value, 4) for key, value in timings.items()},
        )


def picture_pixels(tower: BaseVisionTower, images: ImagesConfig, picture: Picture) -> Tensor:
    """One picture, opened and arranged as `images` says: (tiles, 3, H, W)."""
    processor, tiles = tower.image_processor, images.tiles
    opened = open_picture(picture, max_pixels=images.max_pixels or MAX_PIXELS)
    red, green, blue = (int(255 * mean) for mean in processor.image_mean)
    parts = arrange(
        opened,
        aspect=images.aspect,
        tile=tower.resolved.geometry.input_size[0],
        tiles=(tiles.min, tiles.max, tiles.thumbnail) if tiles else None,
        fill=(red, green, blue),
    )
    pixels: Tensor = processor.preprocess(parts, return_tensors="pt")["pixel_values"]
    return pixels


def merge(
    prompts: Sequence[Sequence[int]],
    pictures: Sequence[Sequence[Tensor]],
    embed: Callable[[Tensor], Tensor],
    *,
    padding: str = "left",
) -> tuple[Tensor, Tensor]:
    """Put picture tokens in the prompts' `PICTURE_ID` places: embeddings (B, T, D), zero-padded, and mask (B, T).

    `pictures[b]` are the (N, D) tokens of row b's pictures, in order. Raises VitaError when the counts differ.
    """
    rows = []
    for ids, visual in zip(prompts, pictures, strict=True):
        places = [index for index, token in enumerate(ids) if token == PICTURE_ID]
        if len(places) != len(visual):
            raise VitaError(f"the prompt has places for {len(places)} pictures, and {len(visual)} are given")
        parts, begin = [], 0
        for place, tokens in zip(places, visual, strict=True):
            parts += [embed(torch.tensor(ids[begin:place], dtype=torch.long)), tokens]
            begin = place + 1
        rows.append(torch.cat([*parts, embed(torch.tensor(ids[begin:], dtype=torch.long))]))
    ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return (
        pad_sequence(rows, batch_first=True, padding_side=padding),
        pad_sequence(ones, batch_first=True, padding_side=padding),
    )


def pick_device(name: str) -> torch.device:
    """``auto`` is the first accelerator, else the CPU. Raises ConfigError for a device that torch does not know."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is no torch device; use auto, cpu, cuda or mps") from error


def build_model(config: Config | Mapping[str, Any] | str | os.PathLike[str]) -> VisionLanguageModel:
    """Tower, projector and language model of a config (an object, a dict, or anything `load_config` takes).

    What does not fit together is told before any weight is read. Raises VitaError.
    """
    if isinstance(config, str | os.PathLike):
        config = load_config(config)
    settings = config if isinstance(config, Config) else validate(Config, config)
    resolved = resolve_tower(settings.tower)
    source = locate(settings.llm.weights, settings.llm.revision)
    width = resolved.geometry.hidden_size
    if "hidden_size" in source.config:
        check_widths(settings.projector, width, int(source.config["hidden_size"]))
    device = pick_device(settings.device)
    tower = build_tower(settings.tower, device=device)
    spec = registry().find(LLMSpec, settings.llm.type)
    factory = import_object(spec.spec.factory, requires=spec.spec.requires, owner=spec.owner)
    llm: LanguageModel = factory(settings.llm, device)
    projector = build_projector(settings.projector, width, llm.hidden_size, dtype=llm.dtype, device=device)
    model = VisionLanguageModel(settings, tower, projector.requires_grad_(False), llm)
    return model.eval()
