"""Towers whose spec has no shape function: their encoder runs as it is, and one run on the meta device measures it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet, SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock
from transformers import ViTConfig, ViTModel

from vita_core import BaseVisionTower, TowerSpec

HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SIZES = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
VIT = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
EXAMPLES: dict[str, dict[str, Any]] = {
    "Vit": VIT | {"hidden_size": 16, "intermediate_size": 24},
    "Resnet": {"image_size": 64},
}


def spec(name: str, **changes: Any) -> TowerSpec:
    """A spec of the class of that name here, which opens checkpoints with that model_type."""
    example = {"model_type": name, **EXAMPLES.get(name, SIZES)}
    stated = {"summary": "for tests", "factory": f"whole_towers:{name}", "model_types": (name,), "processor": HALF}
    return TowerSpec(**{"name": name, **stated, "example": example, **changes})


class Whole(BaseVisionTower):
    """torchvision's vision transformer, with its head."""

    norm_path = "encoder.ln"
    input_sizes = "fixed"

    def build_encoder(self) -> nn.Module:
        return VisionTransformer(**{key: value for key, value in self.checkpoint_config.items() if key != "model_type"})


class Vit(BaseVisionTower):
    """transformers' ViT, with its pooling layer."""

    norm_path = "layernorm"
    input_sizes = "fixed"

    def build_encoder(self) -> nn.Module:
        return ViTModel(ViTConfig.from_dict(self.checkpoint_config))


def resnet() -> nn.Module:
    """torchvision's ResNet without its head, and with its stages in a list."""
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    stages = nn.Sequential(model.layer1, model.layer2, model.layer3, model.layer4)
    return nn.Sequential(OrderedDict(stem=stem, stages=stages))


class Resnet(BaseVisionTower):
    block_path = "stages"

    def build_encoder(self) -> nn.Module:
        return resnet()


class OtherWhenLoaded(Whole):
    """Gives fewer tokens for real pixels."""

    def encode(self, pixels: Tensor, layers: Any) -> Any:
        states, grid = super().encode(pixels, layers)
        return {layer: state if state.is_meta else state[:, 1:] for layer, state in states.items()}, grid


class AsksForBlocks(Whole):
    def build_encoder(self) -> nn.Module:
        return VisionTransformer(**{**SIZES, "num_layers": self.blocks})


class AsksForTheShape(Whole):
    def build_encoder(self) -> nn.Module:
        return VisionTransformer(**{**SIZES, "image_size": self.shape.image_size[0]})


class NoList(BaseVisionTower):
    def build_encoder(self) -> nn.Module:
        return nn.Conv2d(3, 8, 8, stride=8)


class WrongPath(Whole):
    block_path = "encoder.layer"


class NotAList(Whole):
    block_path = "encoder.ln"


class ChannelsLast(BaseVisionTower):
    block_path = "features.1"

    def build_encoder(self) -> nn.Module:
        return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4])


class NeedsValues(Whole):
    def run_encoder(self, pixels: Tensor) -> object:
        return super().run_encoder(pixels * float(pixels.mean()))


class Linear(nn.Module):
    """Makes patches without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * 8 * 8, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patches(
            pixels.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)
        )
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class NoConvolution(BaseVisionTower):
    def build_encoder(self) -> nn.Module:
        return Linear()
