"""The whole model: it takes pictures and a question, and returns an answer. Only this module composes the stages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from vita_core.config.schema import GenerationConfig
from vita_core.errors import CheckpointError, VitaError
from vita_core.language.generating import generate, shared_prefix
from vita_core.language.llm import LanguageModel
from vita_core.language.merging import merge
from vita_core.models.exporting import Exported, export_model, source_of
from vita_core.models.picture_tokens import PictureTokens
from vita_core.models.pictures import Picture, Prepared, prepare
from vita_core.models.saving import save_model
from vita_core.pixels.video import Clip
from vita_core.planning.resolution import Resolved
from vita_core.towers.tower import BaseVisionTower

__all__ = ["Answer", "VisionLanguageModel"]


@dataclass(frozen=True)
class Answer:
    """An answer with its sizes and times.

    `tiles` is the number of tiles of each picture. `timings` are seconds: pictures, tower, generate, first_token, total.
    """

    text: str
    token_ids: list[int]
    tower: str
    llm: str
    tiles: list[int]
    visual_tokens: int
    prompt_tokens: int
    timings: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita run --json`` prints it."""
        return asdict(self)


class VisionLanguageModel(PictureTokens):
    """A tower, a projector and a language model, built from `resolved`.

    `newline` (D) is the token at the end of each row of LLaVA-1.6's unpadded maps, or None.
    """

    def __init__(
        self,
        resolved: Resolved,
        tower: BaseVisionTower,
        projector: nn.Module,
        llm: LanguageModel,
        *,
        newline: Tensor | None = None,
    ) -> None:
        anyres = resolved.config.images.anyres
        if newline is None and anyres is not None and anyres.merge == "spatial_unpad":
            raise CheckpointError(
                "images.anyres.merge: 'spatial_unpad' needs the image_newline of a LLaVA-1.6 checkpoint. "
                "Try: `images.anyres.newline: FILE` with the safetensors file that contains it, or `images.anyres.merge: spatial`"
            )
        super().__init__({} if resolved.checkpoint is None else resolved.checkpoint.old_config)
        self.resolved = resolved
        self.settings = resolved.config
        self.tower = tower
        self.projector = projector
        self.llm = llm
        self.register_buffer("newline", newline)

    def prepare(self, picture: Picture, *, several: bool = False) -> Prepared:
        """Open a picture and cut it into tiles as configured. `ask` accepts the result as a picture. Raises PictureError.

        `several` says that it is one of several pictures of one question, which LLaVA-OneVision does not cut.
        """
        return prepare(self.tower, self.settings.images, picture, several=several)

    def ask(
        self,
        pictures: Picture | Sequence[Picture],
        question: str | None = None,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question about one or more pictures, or videos for a tower of videos.

        `on_text` is called with each piece of the answer.
        Raises PictureError for a picture that cannot be opened, and VitaError if the prompt is longer than the context.
        """
        images = (
            [pictures] if isinstance(pictures, str | os.PathLike | Image.Image | Clip | Prepared) else list(pictures)
        )
        if not images:
            raise VitaError("a question without a picture. Try: pass at least one picture")
        return self._answer([images], [question or None], self._generation(max_new_tokens), system, on_text)[0]

    def ask_each(
        self,
        pictures: Sequence[Picture],
        question: str | None = None,
        *,
        system: str | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answer]:
        """Answer the same question about each of `pictures` in one padded batch."""
        rows = [[picture] for picture in pictures]
        return self._answer(rows, [question or None] * len(rows), self._generation(max_new_tokens), system)

    def ask_rows(
        self,
        rows: Sequence[Sequence[Picture]],
        questions: Sequence[str],
        *,
        generation: GenerationConfig | None = None,
    ) -> list[Answer]:
        """Answer ``questions[b]`` about the pictures of row b, all in one padded batch. A row may have no picture.

        `generation` replaces the config's section.
        """
        return self._answer(rows, questions, generation or self.settings.generation)

    def save(self, directory: str | os.PathLike[str], *, merge_adapters: bool = False) -> None:
        """Save the model to a directory for `build_model` and ``vita run``; see `vita_core.models.saving.save_model`.

        With `merge_adapters`, LoRA adapters are added to the weights instead of being written beside them.
        """
        parts = self.tower, self.projector, self.llm, self.newline
        save_model(Path(directory), self.resolved, *parts, merge_adapters=merge_adapters)

    def export(
        self,
        directory: str | os.PathLike[str],
        *,
        layout: str = "vita",
        source: str | os.PathLike[str] | None = None,
        audio: bool = False,
    ) -> Exported:
        """Export the model to the layout of the VITA checkpoint that it came from.

        `source` is that checkpoint, by default the one that the model was opened from. With `audio`, its audio tensors are
        copied. See `vita_core.models.exporting.export_model`. Raises VitaError.
        """
        if layout != "vita":
            raise VitaError(f"layout cannot be written: {layout!r}. Try: layout='vita', the only one")
        if self.settings.tower.towers is not None:
            raise VitaError("several encoders (`tower.towers`) have no place in VITA's layout. Try: model.save(DIR)")
        origin = source_of(self.resolved, None if source is None else os.fspath(source))
        return export_model(Path(directory), self.resolved, self.tower, self.projector, self.llm, origin, audio=audio)

    @torch.inference_mode()
    def _answer(
        self,
        rows: Sequence[Sequence[Picture]],
        questions: Sequence[str | None],
        generation: GenerationConfig,
        system: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        start = time.perf_counter()
        prompt = self.settings.prompt if system is None else self.settings.prompt.model_copy(update={"system": system})
        pictures = [[self.prepare(picture, several=len(row) > 1) for picture in row] for row in rows]
        by_tile = self.llm.marks_tiles(prompt) and self.settings.images.anyres is None
        tiles = [[len(picture.pixels) for picture in row] for row in pictures]
        places = [[count if by_tile else 1 for count in row] for row in tiles]
        asked = zip(questions, places, strict=True)
        ids = [
            self.llm.prompt(prompt, prompt.question if question is None else question, row) for question, row in asked
        ]
        prepared = time.perf_counter()
        visual = self.visual_tokens(pictures, by_tile)
        if self.tower.device.type != "cpu":
            torch.accelerator.synchronize(self.tower.device)  # else its time would count as the language model's
        encoded = time.perf_counter()
        parts, shared = [[part for picture in row for part in picture] for row in visual], shared_prefix(self.llm, ids)
        embeds, mask = merge(ids, parts, self.llm.embed, shared=shared)
        self._check_context(embeds.shape[1], generation.max_new_tokens)
        first: list[float] = []

        def piece(text: str) -> None:
            first.append(time.perf_counter())
            if on_text is not None:
                on_text(text)

        streamed = piece if len(rows) == 1 else None
        limit = generation.max_new_tokens
        generated = generate(self.llm, generation, embeds, mask, limit, shared=shared, on_text=streamed)
        end = time.perf_counter()
        timings = {
            "pictures": prepared - start,
            "tower": encoded - prepared,
            "generate": end - encoded,
            "total": end - start,
        }
        if first:
            timings["first_token"] = first[0] - start
        counts = [sum(len(part) for picture in row for part in picture) for row in visual]
        answers = zip(generated, tiles, counts, mask.sum(1).tolist(), strict=True)
        return [self._finished(*answer, timings) for answer in answers]

    def _generation(self, max_new_tokens: int | None) -> GenerationConfig:
        if max_new_tokens is not None and (not isinstance(max_new_tokens, int) or max_new_tokens < 1):
            told = f"max_new_tokens: {max_new_tokens!r:.80} is not a whole number from 1. Try: a larger one, or None"
            raise VitaError(told)
        stated = {"max_new_tokens": max_new_tokens} if max_new_tokens is not None else {}
        return self.settings.generation.model_copy(update=stated)

    def visual_tokens(self, pictures: Sequence[Sequence[Prepared]], by_tile: bool) -> list[list[list[Tensor]]]:
        """Return the projected tokens (N, D) of each picture of each row, one tensor for each place in the prompt.

        All tiles of all rows go through the tower in one batch.
        """
        flat = [picture.pixels for row in pictures for picture in row]
        found = iter(self.encode_each(flat) if flat else ())
        return [[self.pack(next(found), picture.size, by_tile) for picture in row] for row in pictures]

    def _check_context(self, prompt_tokens: int, limit: int) -> None:
        context = self.llm.context
        if context is not None and prompt_tokens + limit > context:
            raise VitaError(
                f"the prompt has {prompt_tokens} tokens, and with up to {limit} new tokens it exceeds the language model's "
                f"context of {context}. Try: fewer pictures, fewer tiles (--max-tiles, images.tiles.max), or a lower "
                "--max-new-tokens"
            )

    def _finished(
        self, ids: list[int], tiles: list[int], visual_tokens: int, prompt_tokens: int, timings: dict[str, float]
    ) -> Answer:
        return Answer(
            text=self.llm.text(ids),
            token_ids=ids,
            tower=self.tower.resolved.spec.name,
            llm=self.llm.name,
            tiles=tiles,
            visual_tokens=visual_tokens,
            prompt_tokens=prompt_tokens,
            timings={key: round(value, 4) for key, value in timings.items()},
        )
