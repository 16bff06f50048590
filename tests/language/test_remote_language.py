"""Language models with code beside their weights: each load is of the one commit that the user has read, or of no hub."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN
from remote_language import TinyText, TinyTextConfig
from transformers import LlamaForCausalLM

from vita_core import LanguageModel, VitaError, build_model, load_config
from vita_core.config.schema import LLMConfig
from vita_core.language.tokenizing import checked_source, open_tokenizer
from vita_core.planning.language import ResolvedLLM, resolve_llm

COMMIT, NAME = "ab12" * 10, "someone/tiny-text"
ABSENT = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies the code to a cache before it imports it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


@pytest.fixture
def local(tiny_llm: Path, tmp_path: Path) -> Path:
    """A directory with code of its own, as transformers saves it, and the tokenizer of another model."""
    folder = Path(shutil.copytree(tiny_llm, tmp_path / "local"))
    plain = LlamaForCausalLM.from_pretrained(tiny_llm, dtype=torch.float32)
    TinyTextConfig.register_for_auto_class()
    TinyText.register_for_auto_class("AutoModelForCausalLM")
    settings = {
        key: value for key, value in plain.config.to_dict().items() if key not in ("model_type", "architectures")
    }
    model = TinyText(TinyTextConfig(**settings))
    model.load_state_dict(plain.state_dict())
    model.save_pretrained(folder)
    assert (folder / "remote_language.py").is_file()
    return folder


@pytest.fixture
def cached(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub with one commit and no branch: a load without the commit finds nothing."""
    cache = tmp_path / "hub"
    home = cache / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(local, home / "snapshots" / COMMIT)
    (home / ".no_exist" / COMMIT).mkdir(parents=True)
    for name in ABSENT:
        (home / ".no_exist" / COMMIT / name).touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return home


def test_a_local_directory_runs_its_code_if_it_may(local: Path) -> None:
    with pytest.raises(VitaError, match="needs code from its repository, which is not allowed to run"):
        LanguageModel(LLMConfig(weights=str(local)), torch.device("cpu"))
    opened = LanguageModel(LLMConfig(weights=str(local), trust_remote_code=True), torch.device("cpu"))
    assert type(opened.model).__name__ == "TinyText"
    assert type(opened.model) is not TinyText  # that of the copied file


def test_every_load_is_of_the_commit(cached: Path) -> None:
    config = LLMConfig(weights=NAME, revision=COMMIT, trust_remote_code=True)
    opened = LanguageModel(config, torch.device("cpu"))
    assert type(opened.model).__name__ == "TinyText"
    assert opened.stop_id == 1
    tokenizer, stop = open_tokenizer(resolved_llm(config))
    assert (tokenizer.eos_token_id, stop) == (1, 1)


def resolved_llm(config: LLMConfig) -> ResolvedLLM:
    return resolve_llm(config)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7], COMMIT.replace("b", "g")])
@pytest.mark.parametrize("section", ["llm", "tower"])
def test_a_branch_or_a_tag_is_no_commit(section: str, revision: str | None, tiny_config: Path) -> None:
    stated = "" if revision is None else rf", not '{revision}'"
    changes = [f"{section}.weights={NAME}", f"{section}.trust_remote_code=true"]
    changes += [] if revision is None else [f"{section}.revision={revision}"]
    changes += ["tower.type=transformers"] if section == "tower" else []
    with pytest.raises(VitaError, match=rf"{section}\.trust_remote_code: true needs a fixed revision{stated}\. Try: "):
        build_model(load_config(tiny_config, changes))


@pytest.mark.parametrize(
    ("file", "stated"),
    [
        ("config.json", {"AutoConfig": "remote_language.TinyTextConfig", "AutoModelForCausalLM": "an/other--m.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "an/other--m.Model"]}),
        ("tokenizer_config.json", [None, "an/other--m.Model"]),
    ],
)
def test_code_of_another_repository(file: str, stated: Any, local: Path) -> None:
    content = json.loads((local / file).read_text())
    (local / file).write_text(json.dumps(content | {"auto_map": stated}))
    with pytest.raises(
        VitaError, match=r"its code is in another repository, .* fixed: an/other--m\.Model \(auto_map\)\. Try"
    ):
        checked_source(LLMConfig(weights=str(local), trust_remote_code=True))


def test_code_of_its_own_repository_by_name(cached: Path) -> None:
    file = cached / "snapshots" / COMMIT / "config.json"
    content = json.loads(file.read_text())
    content["auto_map"] = {key: f"{NAME}--{value}" for key, value in content["auto_map"].items()}
    file.write_text(json.dumps(content))
    assert checked_source(LLMConfig(weights=NAME, revision=COMMIT, trust_remote_code=True)).hub_id == NAME


def test_nobody_is_asked_about_the_code_of_a_tokenizer(
    vita15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks on the terminal where it is told neither yes nor no."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    file = vita15 / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    (vita15 / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with contextlib.suppress(VitaError):
        build_model(vita15)
    assert asked == []
    assert not (tmp_path / "ran").exists()


def test_the_commit_is_recorded(cached: Path, tmp_path: Path) -> None:
    """A branch is what it was on that day; the record says which commit."""
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    plain = json.loads((cached / "snapshots" / COMMIT / "config.json").read_text())
    del plain["auto_map"]
    (cached / "snapshots" / COMMIT / "config.json").write_text(json.dumps(plain | {"model_type": "llama"}))
    config = {"tower": {"weights": str(GOLDEN / "clip")}, "llm": {"weights": NAME}, "device": "cpu"}
    torch.manual_seed(0)
    build_model(config).save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text())["sources"]
    assert (record["llm"]["revision"], record["llm"]["commit"]) == (None, COMMIT)
    assert "commit" not in record["tower"]
