"""Every registered projector: its size as planned; and what `visual_vocabulary` makes of scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vita_core import ProjectorSpec, VitaError, load_config, make_plan
from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import build_projector
from vita_core.planning.projectors import resolve_projector
from vita_core.plugins.registry import registry

CPU = torch.device("cpu")
NAMED = {
    "identity": ("identity", 8, {}),
    "linear": ("linear", 8, {}),
    "mlpNx_gelu": ("mlp3x_gelu", 8, {"input_norm": True}),
}
NAMED["visual_vocabulary"] = ("visual_vocabulary", 12, {"classes": 5, "words": 7})


def build(config: ProjectorConfig, width: int) -> torch.nn.Module:
    return build_projector(resolve_projector(config, width, 8), 8, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("name", [found.spec.name for found in registry().all(ProjectorSpec)])
def test_parameters_as_planned(name: str) -> None:
    kind, width, options = NAMED.get(name, (name, 12, {}))
    module = build(ProjectorConfig(type=kind, options=options), width)
    resolved = resolve_projector(ProjectorConfig(type=f"vita-core/{kind}", options=options), width, 8)
    assert resolved.name == kind
    assert sum(p.numel() for p in module.parameters()) == resolved.parameters(8)
    if resolved.spec.tokens is None:  # test_projector_tokens.py has the others
        assert module(torch.rand(2, 3, width)).shape == (2, 3, 8)
    named = build(ProjectorConfig(type=f"vita-core/{kind}", options=options), width)
    assert [p.shape for p in named.parameters()] == [p.shape for p in module.parameters()]


def test_a_vocabulary_says_the_names_of_classes_and_of_captions() -> None:
    options = {"names_of": "MobileNet_V2_Weights.IMAGENET1K_V1", "words": 2}
    projector = build(ProjectorConfig(type="visual_vocabulary", options=options), 1010).eval()
    said: list[str] = []

    def embed(text: str) -> torch.Tensor:
        said.append(text)
        return torch.full((8,), float(len(said)))

    projector.start_from_words(["Tabby", "inline skate"], embed)
    assert (len(said), said[281], said[1000]) == (1001, "tabby", "inline skate")  # a class's name needs no further word
    scores = 40 * F.one_hot(torch.tensor([[281]]), 1000).float()
    tokens = torch.cat([torch.zeros(1, 1, 10), scores], -1)
    torch.testing.assert_close(projector(tokens), torch.full((1, 1, 8), 282.0), atol=1e-2, rtol=0)
    assert projector.word_loss(tokens, torch.tensor([0])) < 1e-3
    assert projector.word_loss(tokens, torch.tensor([1])) > 30
    projector.train()(torch.zeros_like(tokens)).sum().backward()  # a mixture of all words
    moved = projector.table.grad.abs().sum(1).nonzero().flatten().tolist()
    assert moved == [281, 1000]  # other classes keep their names: no caption says what they should be instead
    projector.options.softening = 1e9  # as unsure as can be
    softened = projector(torch.cat([torch.zeros(1, 1, 10), scores], -1))
    torch.testing.assert_close(softened, (10 * projector.table).mean(0).expand(1, 1, 8), atol=0.1, rtol=0.1)
    assert [id(parameter) for parameter in projector.alignment_parameters()] == [id(projector.table)]
    with pytest.raises(
        VitaError, match=r"options.words: 3 captions name no class, such as 'a b'.* Try: set words to 3"
    ):
        projector.start_from_words(["a b", "c", "tabby", "d"], embed)


def test_restraint_keeps_the_class_scores_and_sharpness_the_first_word() -> None:
    torch.manual_seed(0)
    options = {"classes": 5, "words": 2, "restraint": 0.5}
    projector = build(ProjectorConfig(type="visual_vocabulary", options=options), 12)
    free = build(ProjectorConfig(type="visual_vocabulary", options={**options, "restraint": 0.0}), 12)
    projector.start_from_words(["a", "b"], lambda text: torch.full((8,), float(ord(text))))
    with torch.no_grad():
        projector.reading.weight.uniform_(-1, 1)
    free.load_state_dict(projector.state_dict())
    free.places = projector.places
    tokens, wanted = torch.rand(3, 1, 12), torch.tensor([0, 1, 1])
    loss = projector.eval().word_loss(tokens, wanted)
    corrections = projector.reading.weight[:5].pow(2).sum()
    torch.testing.assert_close(loss, free.eval().word_loss(tokens, wanted) + 0.5 * corrections)
    loss.backward()
    assert projector.scale.grad is None  # a scale would undo the restraint
    first = projector.table[projector.logits(tokens).argmax(-1)]
    projector.options.sharpness = 1e6
    torch.testing.assert_close(projector(tokens), 10 * first)


def test_class_scores_are_needed(tiny_config: Path) -> None:
    with pytest.raises(VitaError, match=r"gives 32 channels.*class_scores: true"):  # told without a weight, too
        make_plan(load_config(tiny_config, ["projector.type=visual_vocabulary"]))
    with pytest.raises(VitaError, match=r"gives 1000 channels.*class_scores: true"):
        build(ProjectorConfig(type="visual_vocabulary"), 1000)
    few = build(
        ProjectorConfig(type="visual_vocabulary", options={"classes": 5, "names_of": "ResNet18_Weights.DEFAULT"}), 12
    )
    with pytest.raises(VitaError, match="has 1000 classes, not 5"):
        few.start_from_words([], lambda text: torch.zeros(8))
