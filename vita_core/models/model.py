"""The whole model: pictures and a question in, an answer out. The only file that composes the stages."""

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

from vita_core.errors import CheckpointError, VitaError
from vita_core.language.generating import generate, shared_prefix
from vita_core.language.llm import LanguageModel
from vita_core.language.merging import merge
from vita_core.models.exporting import Exported, export_model, source_of
from vita_core.models.old_names import OldNames
from vita_core.models.pictures import Picture, Prepared, prepare
from vita_core.models.saving import save_model
from vita_core.pixels.anyres import pack
from vita_core.planning.resolution import Resolved
from vita_core.towers.tower import BaseVisionTower

__all__ = ["Answer", "VisionLanguageModel"]


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


class VisionLanguageModel(OldNames):
    """Tower, projector and language model of one config.

    `resolved` says what it was built from. `newline` (D) ends the rows of LLaVA-1.6's unpadded maps.
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
                "images.anyres.merge: spatial_unpad needs the image_newline of a LLaVA-1.6 checkpoint (images.anyres.newline)"
            )
        super().__init__({} if resolved.checkpoint is None else resolved.checkpoint.old_config)
        self.resolved = resolved
        self.settings = resolved.config
        self.tower = tower
        self.projector = projector
        self.llm = llm
        self.newline: Tensor | None
        self.register_buffer("newline", newline)

    def prepare(self, picture: Picture) -> Prepared:
        """One picture, opened and arranged as configured; `ask` takes it in the picture's place. Raises PictureError."""
        return prepare(self.tower, self.settings.images, picture)

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
        images = [pictures] if isinstance(pictures, str | os.PathLike | Image.Image | Prepared) else list(pictures)
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
        """Write a directory that `build_model` and ``vita run`` open again; see `vita_core.models.saving.save_model`."""
        save_model(Path(directory), self.resolved, self.tower, self.projector, self.llm, self.newline)

    def export(
        self,
        directory: str | os.PathLike[str],
        *,
        layout: str = "vita",
        source: str | os.PathLike[str] | None = None,
        audio: bool = False,
    ) -> Exported:
        """Write the layout of the checkpoint this model came from (`source`, by default the one that was opened), with its
        audio half if `audio`; see `vita_core.models.exporting.export_model`. Raises VitaError."""
        if layout != "vita":
            raise VitaError(f"layout {layout!r} cannot be written; there is only 'vita'")
        origin = source_of(self.resolved, None if source is None else os.fspath(source))
        return export_model(Path(directory), self.resolved, self.tower, self.projector, self.llm, origin, audio=audio)

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
        if not all(rows):
            raise VitaError("a question needs at least one picture")
        prompt = self.settings.prompt if system is None else self.settings.prompt.model_copy(update={"system": system})
        pictures = [[self.prepare(picture) for picture in row] for row in rows]
        by_tile = self.llm.marks_tiles(prompt) and self.settings.images.anyres is None
        tiles = [[len(picture.pixels) for picture in row] for row in pictures]
        places = [[count if by_tile else 1 for count in row] for row in tiles]
        ids = [self.llm.prompt(prompt, question or prompt.question, row) for row in places]
        prepared = time.perf_counter()
        visual = self._visual_tokens(pictures, by_tile)
        if self.tower.device.type != "cpu":
            torch.accelerator.synchronize(self.tower.device)  # else the tower's time is told as the language model's
        encoded = time.perf_counter()
        parts, shared = [[part for picture in row for part in picture] for row in visual], shared_prefix(self.llm, ids)
        embeds, mask = merge(ids, parts, self.llm.embed, shared=shared)
        limit = max_new_tokens or self.settings.generation.max_new_tokens
        self._check_context(embeds.shape[1], limit)
        first: list[float] = []

        def piece(text: str) -> None:
            first.append(time.perf_counter())
            if on_text is not None:
                on_text(text)

        settings, streamed = self.settings.generation, piece if len(rows) == 1 else None
        generated = generate(self.llm, settings, embeds, mask, limit, shared=shared, on_text=streamed)
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

    def _visual_tokens(self, pictures: Sequence[Sequence[Prepared]], by_tile: bool) -> list[list[list[Tensor]]]:
        """Projected tokens (N, D) of each picture of each row, one tensor a place in the prompt.

        All tiles of all rows go through the tower together.
        """
        flat = [picture.pixels for row in pictures for picture in row]
        found = iter(self.encode_images(torch.cat(flat)).split([len(pixels) for pixels in flat]))
        return [[self.pack(next(found), picture.size, by_tile) for picture in row] for row in pictures]

    def pack(self, tokens: Tensor, size: tuple[int, int], by_tile: bool = False) -> list[Tensor]:
        """Tokens (tiles, N, D) of a picture of `size` (width, height) as what stands in its place(s), each (M, D)."""
        anyres = self.settings.images.anyres
        if anyres is not None:
            tile = self.tower.resolved.geometry.input_size[0]
            return [pack(tokens, self.tower.grid, size, anyres, tile, self.newline)]
        return list(tokens) if by_tile else [tokens.flatten(0, 1)]

    def _check_context(self, prompt_tokens: int, limit: int) -> None:
        context = self.llm.context
        if context is not None and prompt_tokens + limit > context:
            raise VitaError(
                f"the prompt has {prompt_tokens} tokens and {limit} more may be generated, over the language model's "
                f"context of {context}; use fewer pictures or tiles (--max-tiles, images.tiles.max), or a lower --max-new-tokens"
            )

    def _finished(
        self, ids: list[int], tiles: list[int], visual_tokens: int, prompt_tokens: int, timings: dict[str, float]
    ) -> Answer:
        return Answer(
            text=self.llm.tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token_ids=ids,
            tower=self.tower.resolved.spec.name,
            llm=self.llm.name,
            tiles=tiles,
            visual_tokens=visual_tokens,
            prompt_tokens=prompt_tokens,
            timings={key: round(value, 4) for key, value in timings.items()},
        )
