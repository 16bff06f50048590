"""The methods and attributes that code written for VITA or LLaVA expects of a model."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import VitaError
from vita_core.language.llm import PICTURE_ID, LanguageModel
from vita_core.language.merging import IGNORED_LABEL, Batch, merge_labelled
from vita_core.pixels.fused import FusedPixels, Pixels
from vita_core.towers.tower import BaseVisionTower

__all__ = ["OldNames"]


class OldNames(nn.Module, abc.ABC):
    """The interface of `VITAMetaForCausalLM` and `LlavaMetaForCausalLM`. `config` has the checkpoint's own keys."""

    tower: BaseVisionTower
    projector: nn.Module
    llm: LanguageModel

    def __init__(self, old_config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**old_config)

    @abc.abstractmethod
    def encode_images(self, pixels: Pixels) -> Tensor:
        """Return the projected tokens (tiles, N, D) of pixels (tiles, 3, H, W)."""

    @abc.abstractmethod
    def encode_each(self, pictures: Sequence[Pixels]) -> list[Tensor]:
        """Return the projected tokens (tiles, N, D) of each of the pixels (tiles, 3, H, W)."""

    @abc.abstractmethod
    def pack(self, tokens: Tensor, size: tuple[int, int], by_tile: bool = False) -> list[Tensor]:
        """Join the tokens (tiles, N, D) of one picture to a tensor (M, D) for each of its places in the prompt."""

    def get_vision_tower(self) -> BaseVisionTower:
        """Return the tower."""
        return self.tower

    def get_model(self) -> OldNames:
        """Return this model itself: it has `get_vision_tower`, `mm_projector` and `embed_tokens`."""
        return self

    @property
    def mm_projector(self) -> nn.Module:
        """The projector."""
        return self.projector

    @property
    def embed_tokens(self) -> nn.Module:
        """The language model's embedding table."""
        table: nn.Module = self.llm.model.get_input_embeddings()
        return table

    @property
    def device(self) -> torch.device:
        """The device of the language model."""
        return self.llm.device

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past_key_values: Any,
        labels: Tensor | None,
        images: Pixels | Sequence[Pixels] | None,
        audios: Any = None,
        sf_masks: Tensor | None = None,
        shared_v_pid_stride: int | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Any, Tensor | None, Tensor | None]:
        """Replace the places of pictures (-200) in ids (B, T) by picture tokens.

        Returns (None, positions, mask, cache, embeddings (B, T, D), labels). Positions, mask and labels are None if they
        were None. Without `images`, or for a single next token, all arguments are returned unchanged.

        `images` is (P, 3, H, W) with one place for each picture, or a list or 5-dimensional tensor of (tiles, 3, H, W) with
        one place for each element. A row without a picture needs a blank one in `images`. Rows are padded on the side
        `config.tokenizer_padding_side` and cut at `config.tokenizer_model_max_length`. With `image_sizes` (width, height),
        as in LLaVA-1.6, tiles are joined as configured. Raises VitaError if the numbers of pictures differ, for `audios`,
        and for `sf_masks` and `shared_v_pid_stride` that are not None or zero.
        """
        _refuse(audios, sf_masks, shared_v_pid_stride)
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        targets = torch.full_like(input_ids, IGNORED_LABEL) if labels is None else labels
        ids = [row[mask] for row, mask in zip(input_ids, keep, strict=True)]
        batch = merge_labelled(
            ids,
            [row[mask] for row, mask in zip(targets, keep, strict=True)],
            _dealt(self._features(images, image_sizes), ids),
            self.llm.embed,
            padding=getattr(self.config, "tokenizer_padding_side", "right"),
            max_length=getattr(self.config, "tokenizer_model_max_length", None),
        )
        return _returned(batch, position_ids, attention_mask, past_key_values, labels)

    def generate(
        self,
        inputs: Tensor,
        images: Pixels | Sequence[Pixels] | None = None,
        audios: Any = None,
        sf_masks: Tensor | None = None,
        shared_v_pid_stride: int | None = None,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        **options: Any,
    ) -> Any:
        """Call transformers' ``generate`` with ids (B, T) in which -200 marks pictures. Only the new tokens are returned."""
        mask, positions = options.pop("attention_mask", None), options.pop("position_ids", None)
        _, positions, mask, _, embeds, _ = self.prepare_inputs_labels_for_multimodal(
            inputs, positions, mask, None, None, images, audios, sf_masks, shared_v_pid_stride, image_sizes
        )
        if embeds is None:
            embeds = self.llm.embed(inputs)
        return self.llm.model.generate(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, **options)

    def _features(
        self, images: Pixels | Sequence[Pixels], image_sizes: Sequence[tuple[int, int]] | None
    ) -> list[Tensor]:
        """Return the projected tokens (M, D) for each place."""
        if isinstance(images, Tensor | FusedPixels) and images.ndim == 4:
            return list(self.encode_images(images))
        pictures = [picture if picture.ndim == 4 else picture[None] for picture in images]
        encoded = self.encode_each(pictures)
        if image_sizes is None:
            return [tokens.flatten(0, 1) for tokens in encoded]
        return [self.pack(tokens, size)[0] for tokens, size in zip(encoded, image_sizes, strict=True)]


def _refuse(audios: Any, sf_masks: Tensor | None, shared_v_pid_stride: int | None) -> None:
    """Raise VitaError for arguments of VITA's calls that are not supported. None and zero have no effect there."""
    if audios is not None:
        raise VitaError("audios: audio is not supported. Try: leave the argument out")
    if sf_masks is not None and bool((sf_masks > 0).any()):
        raise VitaError("sf_masks: VITA's slow-fast pooling of frames is not supported. Try: leave the argument out")
    if shared_v_pid_stride:
        raise VitaError(
            f"shared_v_pid_stride: pictures that share positions are not supported: {shared_v_pid_stride}. "
            "Try: leave the argument out"
        )


def _dealt(features: Sequence[Tensor], ids: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the `features` of each row's pictures. A row without a place uses up one, its blank picture, and gets none.

    Raises VitaError if the number of features is wrong.
    """
    counts = [int((row == PICTURE_ID).sum()) for row in ids]
    wanted = sum(max(count, 1) for count in counts)
    if wanted != len(features):
        raise VitaError(
            f"images: {len(features)} pictures are given, but the prompts need {wanted}: {sum(counts)} for the places, and a "
            f"blank one for each of the {counts.count(0)} rows without a place. Try: pass {wanted} pictures"
        )
    found = iter(features)
    rows = [[next(found) for _ in range(max(count, 1))] for count in counts]
    return [row if count else [] for row, count in zip(rows, counts, strict=True)]


def _returned(
    batch: Batch,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    past_key_values: Any,
    labels: Tensor | None,
) -> tuple[None, Tensor | None, Tensor | None, Any, Tensor, Tensor | None]:
    return (
        None,
        None if position_ids is None else batch.positions,
        None if attention_mask is None else batch.mask.to(attention_mask.dtype),
        past_key_values,
        batch.embeds,
        None if labels is None else batch.labels,
    )
