"""Tables that an encoder computes from its config: refused before they take memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import BeitConfig, BeitModel, SwinConfig, Swinv2Config

from vita_core import build_tower
from vita_core.errors import CheckpointError
from vita_core.loading import without_weights
from vita_core.planning.towers import resolve_tower
from vita_core.tables import BoundedTables
from vita_core.untrusted.sizes import MOST_TABLE, LargeTableError

BEIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SWIN = {"embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2], "image_size": 2048}


def anonymous() -> int:
    """The bytes of memory of this process that are in no file, at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BeitConfig(**BEIT, image_size=8192, use_relative_position_bias=True),
         r"image_size: 8192, patch_size: 16: the encoder would compute a table of 1,099,511,627,776 bytes"),
        (BeitConfig(**BEIT, image_size=4096, use_shared_relative_position_bias=True),
         r"image_size: 4096, patch_size: 16: the encoder would compute a table of 68,719,476,736 bytes"),
        (SwinConfig(**SWIN, window_size=512),
         r"image_size: 2048, patch_size: 4, window_size: 512: the encoder would compute a table of 1,099,511,627,776 bytes"),
        (Swinv2Config(**SWIN, window_size=256), r"window_size: 256: the encoder would compute a table of 68,719,476,736 bytes"),
    ],
)  # fmt: skip
def test_a_table_of_positions_is_refused_before_it_takes_memory(config: Any, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    before, start = anonymous(), time.process_time()
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path}/config\.json: .*{message} of it, and the limit is 200,000,000"
    ):
        resolve_tower({"weights": str(tmp_path)})
    assert anonymous() - before < 5e8
    assert time.process_time() - start < 10  # with the import of the model


def test_the_size_that_the_user_set_is_named(tmp_path: Path) -> None:
    BeitModel(BeitConfig(**BEIT, use_relative_position_bias=True)).save_pretrained(tmp_path)
    assert resolve_tower({"weights": str(tmp_path)}).shape.image_size == (224, 224)
    with pytest.raises(CheckpointError, match=r"image_size: \(1600, 1600\), patch_size: 16: the encoder would compute"):
        resolve_tower({"weights": str(tmp_path), "image_size": 1600})


def test_tables_of_a_library_without_a_plan_of_them(tmp_path: Path) -> None:
    model = timm.create_model("beit_base_patch16_224", num_classes=0, embed_dim=32, depth=1, num_heads=1)
    args = {"embed_dim": 32, "depth": 1, "num_heads": 1, "num_classes": 0}
    timm.models.save_for_hf(model, tmp_path, model_args=args, safe_serialization=True)
    assert build_tower({"weights": str(tmp_path)}).is_loaded
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_args": {**args, "img_size": 2048}}))
    with pytest.raises(
        CheckpointError, match=r"config\.json: img_size: 2048: the encoder would compute a table of 4,294,"
    ):
        build_tower({"weights": str(tmp_path)})


def test_only_what_takes_memory_is_bounded() -> None:
    side = MOST_TABLE // 8
    with BoundedTables():
        assert torch.empty(side, 2, dtype=torch.int64).numel() == 2 * side
        assert torch.arange(10).expand(side, 10).shape == (side, 10)
        assert torch.zeros(10**12, device="meta").is_meta
        assert torch.ones(1000).sum() == 1000
        for make in (
            lambda: torch.zeros(side + 1, dtype=torch.int64),
            lambda: torch.arange(side + 1),
            lambda: torch.arange(side // 100)[:, None] - torch.arange(101),
            lambda: torch.ones(side // 100, 1).repeat(1, 201),
        ):
            with pytest.raises(LargeTableError, match=r"a table of 2\d\d,\d\d\d,\d\d\d bytes"):
                make()
    with without_weights():
        assert torch.nn.Linear(30_000, 30_000).weight.is_meta
