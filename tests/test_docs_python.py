"""Every Python block of the documents is run, in its page's order, beside small stand-ins for the files that the pages name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, REPOSITORY
from documents import DOCUMENTS, blocks_of

FOLLOWED = [REPOSITORY / "docs" / name for name in ("write-a-plugin.md", "train.md")]
"""Pages that are run whole: by tests/plugins/test_write_a_plugin.py and tests/training/test_train_page.py."""
PAGES = [document for document in DOCUMENTS if document not in FOLLOWED and blocks_of(document, "python")]
TRAINED = ("trained", "run-siglip")
"""Directories that `vita train` wrote, as the pages call them."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Path:
    """A working directory: a photo, a small SigLIP of 384 pixels with random weights, and trained models."""
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from vita_core import build_model

    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(REPOSITORY / "examples" / "pictures" / "cat.jpg", folder / "photo.jpg")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=384, patch_size=14)).save_pretrained(folder / "siglip")
    shutil.copy(GOLDEN / "siglip" / "preprocessor_config.json", folder / "siglip")
    config = {"tower": {"weights": str(GOLDEN / "siglip")}, "llm": {"weights": str(tiny_llm)}}
    model = build_model(config | {"generation": {"max_new_tokens": 5}, "device": "cpu"})
    for name in TRAINED:
        model.save(folder / name)
    return folder


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_the_python_of_a_page_runs(document: Path, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(stand_ins)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names: dict[str, Any] = {"__name__": "page", "pixel_values": torch.rand(1, 3, 1152, 1152)}
    for block in blocks_of(document, "python"):
        exec(compile(block.text, str(block), "exec"), names)
