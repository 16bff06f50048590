"""Every registered projector: its size as planned; and what `class_scores_mlp` makes of scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vita_core import ProjectorSpec, VitaError, load_config, make_plan
from vita_core.config import ProjectorConfig
from vita_core.projectors import build_projector
from vita_core.registry import registry
from vita_core.resolution import resolve_projector

CPU = torch.device("cpu")
NAMED = {
    "identity": ("identity", 8, {}),
    "linear": ("linear", 8, {}),
    "mlpNx_gelu": ("mlp3x_gelu", 8, {"input_norm": True}),
}
NAMED["class_scores_mlp"] = ("class_scores_mlp", 12, {"classes": 5, "hidden_size": 7})


def build(config: ProjectorConfig, width: int) -> torch.nn.Module:
    return build_projector(config, width, 8, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("name", [found.spec.name for found in registry().all(ProjectorSpec)])
def test_parameters_as_planned(name: str) -> None:
    kind, width, options = NAMED[name]
    module = build(ProjectorConfig(type=kind, options=options), width)
    found, bare, validated = resolve_projector(ProjectorConfig(type=f"vita-core/{kind}", options=options))
    assert bare == kind
    assert sum(p.numel() for p in module.parameters()) == found.spec.parameters(bare, width, 8, validated)
    assert module(torch.rand(2, 3, width)).shape == (2, 3, 8)
    named = build(ProjectorConfig(type=f"vita-core/{kind}", options=options), width)
    assert [p.shape for p in named.parameters()] == [p.shape for p in module.parameters()]


def test_class_scores_become_the_names_of_their_classes() -> None:
    weights = "MobileNet_V2_Weights.IMAGENET1K_V1"
    projector = build(ProjectorConfig(type="class_scores_mlp", options={"names_of": weights}), 1010).eval()
    said: list[str] = []

    def embed(text: str) -> torch.Tensor:
        said.append(text)
        return torch.full((8,), float(len(said)))

    projector.start_from_words(embed)
    assert (len(said), said[281]) == (1000, "tabby")
    scores = 40 * F.one_hot(torch.tensor([[281]]), 1000).float()
    features = torch.rand(1, 1, 10)
    with torch.no_grad():
        own = projector(torch.cat([features, scores], -1)) - projector.mlp(features)
    torch.testing.assert_close(own, torch.full((1, 1, 8), 282.0), atol=1e-2, rtol=0)


def test_class_scores_are_needed(tiny_config: Path) -> None:
    with pytest.raises(VitaError, match=r"gives 32 channels.*class_scores: true"):  # told without a weight, too
        make_plan(load_config(tiny_config, ["projector.type=class_scores_mlp"]))
    with pytest.raises(VitaError, match=r"gives 1000 channels.*class_scores: true"):
        build(ProjectorConfig(type="class_scores_mlp"), 1000)
    few = build(
        ProjectorConfig(type="class_scores_mlp", options={"classes": 5, "names_of": "ResNet18_Weights.DEFAULT"}), 12
    )
    with pytest.raises(VitaError, match="has 1000 classes, not 5"):
        few.start_from_words(lambda text: torch.zeros(8))
