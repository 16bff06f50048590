"""Towers that each break one contract, for the tests of the conformance kit. All but their fault is CLIP's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core import Shape, TowerSpec, VitaError
from vita_core.pixels.native import native_processor
from vita_core.pixels.processors import image_processor
from vita_plugins.clip import shape, vita_towers
from vita_plugins.clip.tower import ClipTower
from vita_plugins.timm import vita_towers as timm_towers
from vita_plugins.timm.tower import TimmTower


class ClsLeftIn(ClipTower):
    def feature_select(self, hidden_states: Any) -> Tensor:
        return hidden_states[self.resolved.geometry.layers[0]]


class IgnoresDtype(ClipTower):
    def load_model(self) -> None:
        super().load_model()
        self.encoder.float()


class AlwaysFloat32(ClipTower):
    def forward(self, images: Any) -> Any:
        features = super().forward(images)
        return features.float() if isinstance(features, Tensor) else [part.float() for part in features]


class NoGrad(ClipTower):
    @torch.no_grad()
    def forward(self, images: Any) -> Any:
        return super().forward(images)


class NoGradForTheWholeProgram(ClipTower):
    def load_model(self) -> None:
        super().load_model()
        torch.set_grad_enabled(False)


class LoadsInInit(ClipTower):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.load_model()


class WrongProcessor(ClipTower):
    @property
    def image_processor(self) -> Any:
        return image_processor({**self.resolved.processor, "crop_size": {"height": 224, "width": 224}})


class WrongRange(ClipTower):
    @property
    def image_processor(self) -> Any:
        return image_processor({**self.resolved.processor, "do_rescale": False})


class NotDeterministic(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, grid = super().encode(pixels, layers)
        return {layer: state + 1e-3 * torch.randn_like(state) for layer, state in states.items()}, grid


class ListStacked(ClipTower):
    def forward(self, images: Any) -> Any:
        return super().forward(images if isinstance(images, Tensor) else torch.stack(list(images)))


class EmptyOfAnotherShape(ClipTower):
    def forward(self, images: Any) -> Any:
        if isinstance(images, Tensor) and len(images) == 0:
            return images.new_zeros(0, self.hidden_size)
        return super().forward(images)


class RenamesItsOwnKeys(ClipTower):
    renames = ((r"encoder\.", "layers."),)


class GridIsAList(ClipTower):
    @property
    def grid(self) -> Any:
        return list(super().grid)


class WidthKnownOnlyAfterLoading(ClipTower):
    @property
    def hidden_size(self) -> int:
        return super().hidden_size if self.is_loaded else 0


class BufferMadeInInit(ClipTower):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("unused", torch.ones(1))


class FallsBackToNoWeights(ClipTower):
    def load_model(self) -> None:
        try:
            super().load_model()
        except VitaError:
            self.encoder = self.build_encoder()


class GuessesFromThePath(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, grid = super().encode(pixels, layers)
        factor = 0.5 if "random" in self.resolved.source.weights else 1.0
        return {layer: state * factor for layer, state in states.items()}, grid


class ConfigHoldsAFunction(ClipTower):
    @property
    def config(self) -> Any:
        return SimpleNamespace(activation=lambda x: x)


class ParametersNotPlanned(ClipTower):
    def build_encoder(self) -> nn.Module:
        encoder = super().build_encoder()
        encoder.extra = nn.Linear(2, 2)
        return encoder


class GridOfTheConfig(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, _ = super().encode(pixels, layers)
        rows, cols = (side // 14 for side in self.resolved.geometry.input_size)
        return states, (rows, cols)


class OwnForward(ClipTower):
    def forward(self, images: Any) -> Any:
        states, _ = self.encode(images, self.resolved.geometry.layers)
        return self.feature_select(states)


class AlwaysTheEmbeddings(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, grid = super().encode(pixels, [0])
        return dict.fromkeys(layers, states[0]), grid


class ColumnByColumn(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        return super().encode(pixels.transpose(2, 3), layers)


class BatchStatistics(ClipTower):
    def encode(self, pixels: Tensor, layers: Any) -> Any:
        return super().encode(pixels - pixels.mean(0), layers)


class FrozenAnyway(ClipTower):
    def load_model(self) -> None:
        super().load_model()
        self.encoder.requires_grad_(False)


class FrozenButInTrainMode(ClipTower):
    def train(self, mode: bool = True) -> Any:
        return nn.Module.train(self, mode)


class ClsBehind(ClipTower):
    """Not broken with `cls_behind` as its shape: CLS is behind the patches."""

    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, grid = super().encode(pixels, layers)
        return {layer: state.roll(-1, dims=1) for layer, state in states.items()}, grid


def cls_behind(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    return dataclasses.replace(shape(config, options), prefix_tokens=0, suffix_tokens=1)


def more_tokens(config: Mapping[str, Any], options: Mapping[str, Any]) -> Shape:
    """CLIP's shape with patches half as large as the encoder's."""
    return shape({**config, "patch_size": config["patch_size"] // 2}, options)


def spec(name: str, **changes: Any) -> TowerSpec:
    """CLIP's spec under another name and, unless changed, the class of that name here."""
    (clip,) = vita_towers()
    assert clip.example is not None
    example = {key: value for key, value in clip.example.items() if key != "model_type"}  # else CLIP claims it
    stated = {"factory": f"broken_towers:{name}", "model_types": (), "hub_ids": {}, "example": example, **changes}
    return dataclasses.replace(clip, name=name, **stated)


class NativeLeaks(TimmTower):
    def encode_pictures(self, pictures: Any, layers: Any) -> Any:
        found = super().encode_pictures(pictures, layers)
        shared = torch.stack([state.mean() for states, _ in found for state in states.values()]).mean()
        return [({layer: state + shared for layer, state in states.items()}, grid) for states, grid in found]


class NativeOneByOne(TimmTower):
    def encode_pictures(self, pictures: Any, layers: Any) -> Any:
        return [super(NativeOneByOne, self).encode_pictures([picture], layers)[0] for picture in pictures]


class NativeSquare(TimmTower):
    @property
    def image_processor(self) -> Any:
        return native_processor(self.resolved.processor, dataclasses.replace(self.shape.native, max_tokens=9))


def native_spec(name: str) -> TowerSpec:
    """A broken tower of native resolution. All but its fault is a NaFlex ViT of timm."""
    sizes = {"img_size": 80, "depth": 2, "embed_dim": 32, "num_heads": 2, "pos_embed_grid_size": [4, 4]}
    example = {"architecture": "naflexvit_base_patch16_gap", "pretrained_cfg": {}, "model_args": sizes}
    factory = f"{__name__}:{name}"
    return dataclasses.replace(
        timm_towers()[0], name=name, factory=factory, example=example, recognises=lambda _: False
    )
