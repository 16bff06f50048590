"""``vita new-tower --wrap``: what it finds out about classes of libraries, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vita_core import VitaError
from vita_core.cli.new_tower import new_tower

TIMM = "timm.models.vision_transformer:VisionTransformer"
TORCHVISION = "torchvision.models:VisionTransformer"
OWN = """
from torch import nn
from torch.nn.functional import interpolate

class Net(nn.Module):
    def __init__(self, width=8, image_size=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.body = nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(3)))
        self.head = nn.Linear(width, 10)

    def forward(self, pixels):
        return self.head(self.body(self.stem(pixels)).mean((2, 3)))

class Sizeless(Net):
    def __init__(self, width=8):
        super().__init__(width)

class Blockless(nn.Module):
    def __init__(self, image_size=16):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)

def build():
    return Net()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with encoders of one's own."""
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_encoders"


@pytest.mark.parametrize(
    ("target", "arguments", "lines"),
    [
        (
            TIMM,
            ["img_size=32", "patch_size=8", "depth=3", "num_heads=2", "embed_dim=16"],
            ['block_path = "blocks"', 'norm_path = "norm"', 'input_sizes = "fixed"'],
        ),
        (
            "transformers:Dinov2Model",
            ["hidden_size=16", "num_hidden_layers=3", "num_attention_heads=2", "image_size=28"],
            ['block_path = "encoder.layer"', 'norm_path = "layernorm"', 'input_sizes = "patches"'],
        ),
        ("own_encoders:Net", [], ['block_path = "body"', 'input_sizes = "patches"']),
    ],
)
def test_what_is_found_out(
    tmp_path: Path, own: str, target: str, arguments: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    new_tower("mine", at=tmp_path / "made", wrap=target, arg=arguments)
    written = [line.strip() for line in (tmp_path / "made" / "vita_tower_mine" / "tower.py").read_text().splitlines()]
    assert [line for line in written if " = " in line] == lines
    assert "found 3 blocks at" in capsys.readouterr().out


def test_a_class_without_an_argument_for_the_size(tmp_path: Path, own: str) -> None:
    with pytest.raises(VitaError, match=r"states the size of the pictures\. Try: `--image-size 224`"):
        new_tower("mine", at=tmp_path / "made", wrap=f"{own}:Sizeless")
    new_tower("mine", at=tmp_path / "made", wrap=f"{own}:Sizeless", image_size=16)
    assert (
        'if k not in ("model_type", "image_size")' in (tmp_path / "made" / "vita_tower_mine" / "tower.py").read_text()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrap": "Net"}, "--wrap: not of the form package:Class: 'Net'. Try: torchvision.models:VisionTransformer"),
        ({"wrap": "no_such_module:Net"}, "--wrap: cannot import no_such_module: ModuleNotFoundError: "),
        ({"wrap": "torchvision.models:VisionTransformr"}, "Did you mean 'VisionTransformer'? Try: "),
        ({"wrap": "own_encoders:build"}, "--wrap: own_encoders:build is not a subclass of torch.nn.Module. Try: "),
        ({"wrap": TORCHVISION}, f"{TORCHVISION} needs arguments: image_size, patch_size, num_layers,"),
        ({"wrap": TORCHVISION, "arg": ["image_sise=1"]}, "no argument 'image_sise'. Did you mean 'image_size'?"),
        ({"wrap": "own_encoders:Blockless"}, "does not run by itself: Blockless has no nn.ModuleList of blocks. Try: "),
        ({"wrap": "own_encoders:Net", "blocks": "tail"}, "Net has no 'tail'"),
        ({"wrap": "own_encoders:Net", "arg": ["width"]}, "width"),
        ({"blocks": "layers"}, "they describe a class to wrap. Try: `--wrap package:Class` too"),
    ],
)
def test_what_is_refused(tmp_path: Path, own: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VitaError) as caught:
        new_tower("mine", at=tmp_path / "made", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "made").exists()
