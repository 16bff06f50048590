"""Fixtures: the golden checkpoints, a tiny real language model, and a clean registry."""

from __future__ import annotations

import json
import multiprocessing.process
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distributions import Environment
from sample_asset import CONTENT, add, digest

if TYPE_CHECKING:
    import torch

# a shell that runs the tests in the background has them ignore Ctrl-C, which the processes they start would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported: here, and before a command is forked

pytest_plugins = ["browsers", "messages", "reliability"]
GOLDEN = Path(__file__).parent / "fixtures" / "golden"
REPOSITORY = Path(__file__).parent.parent
WORDS = [
    "a",
    "an",
    "the",
    "cat",
    "dog",
    "cup",
    "red",
    "blue",
    "what",
    "is",
    "this",
    "picture",
    "of",
    "in",
    "it",
    "photo",
    ".",
    "?",
    "!",
    "yes",
    "no",
    "<image>",
]


FAMILIES = ["clip", "siglip", "siglip_s2", "internvit", "internvit_6b", "eva_clip"]


def golden_settings(name: str) -> dict[str, Any]:
    """The tower section that opens a golden checkpoint."""
    if name == "eva_clip":
        return {"weights": str(GOLDEN / name / "EVA02_CLIP_tiny_psz14.pt")}
    return {"weights": str(GOLDEN / name)} | ({"s2": {"scales": [56, 112, 168]}} if name == "siglip_s2" else {})


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5; EVA's features reach 22, where one unit in the last place is 2e-6, so a relative part is added."""
    import torch

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


@pytest.fixture(autouse=True, scope="session")
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Temporary files of tests and of their processes, also of killed ones, are deleted with pytest's own."""
    multiprocessing.util.get_temp_dir()  # outside: it is removed when Python ends, later than pytest's own
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("t"))


@pytest.fixture(autouse=True)
def quick_tests_start_no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that starts a process takes seconds, and says so by its mark: `make quick` leaves it out."""
    if any(request.node.get_closest_marker(name) for name in ("slow", "extras")):
        return

    start = subprocess.Popen.__init__

    def refuse(self: Any, arguments: Any, *rest: Any, **options: Any) -> None:
        program = Path(str(arguments if isinstance(arguments, str | Path) else arguments[0])).name
        # libraries may ask the machine for its name or processor when they are imported
        assert not program.startswith(("python", "vita", "pip", "uv", "make", "bash")), "mark it with @pytest.mark.slow"
        start(self, arguments, *rest, **options)

    def refuse_fork(*_: object) -> None:
        raise AssertionError("this test starts a process: mark it with @pytest.mark.slow")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse_fork)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """The registry without what a test registers, before and after it."""
    from vita_core.plugins.registry import use_plugins

    use_plugins()
    yield
    use_plugins()


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tower_examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """For every built-in tower a small checkpoint, opened by explicit type; pictures of 56 or 64 pixels."""
    import open_clip
    import timm
    import torch
    import torchvision
    from safetensors.torch import save_file
    from transformers import Dinov2Config, Dinov2Model

    from vita_plugins import open_clip as plugin

    examples = {name: {"type": name, **golden_settings(name)} for name in ("clip", "siglip", "internvit", "eva_clip")}
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    models = {
        "timm": ("vit_tiny_patch16_224", timm.create_model("vit_tiny_patch16_224", img_size=64)),
        "torchvision": ("mobilenet_v2", torchvision.models.mobilenet_v2(weights=None)),
    }
    for name, (architecture, model) in models.items():
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        examples[name] = {"type": name, "weights": str(folder / f"{name}.safetensors")}
        examples[name]["options"] = {"architecture": architecture}
    examples["timm"]["options"]["image_size"] = 64  # the size of its positions
    examples["torchvision"]["image_size"] = 64
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder / "dinov2")
    examples["transformers"] = {"type": "transformers", "weights": str(folder / "dinov2")}
    config = dict(plugin.vita_towers()[0].example or {})
    (folder / "open_clip").mkdir()
    (folder / "open_clip" / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.CLIP(**config["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip" / "open_clip_model.safetensors")
    examples["open_clip"] = {"type": "open_clip", "weights": str(folder / "open_clip")}
    return examples


@pytest.fixture(scope="session")
def vivit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small tower of videos."""
    from videos import save_vivit

    return save_vivit(tmp_path_factory.mktemp("vivit"))


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 40 frames, each of another grey."""
    from videos import write_video

    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", 40, size=(80, 64))


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a word tokenizer and a chat template, saved as transformers saves any model."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llm")
    vocabulary = {
        word: number
        for number, word in enumerate(["<pad>", "<eos>", "<unk>", "user:", "assistant:", "system:", *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' \n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A second environment, for the distributions that one module's tests install."""
    return Environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def vita15(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden checkpoint beside a copy of its base tower, to be broken."""
    shutil.copytree(golden / "internvit", tmp_path / "internvit")
    return Path(shutil.copytree(golden / "vita15", tmp_path / "vita15"))


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_llm: Path) -> Path:
    """A YAML file of the golden CLIP tower and the tiny language model."""
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"tower: {{weights: {GOLDEN / 'clip'}}}\n"
        f"llm: {{weights: {tiny_llm}}}\n"
        "generation: {max_new_tokens: 5}\ndevice: cpu\n"
    )
    return file


@pytest.fixture
def queries_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reduction `queries`, which learns (tests/learning.py)."""
    from learning import QUERIES

    from vita_core.plugins.registry import registry

    monkeypatch.setattr(registry(), "_specs", [*registry()._specs])
    registry().add(QUERIES)


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A JSONL of the golden pictures, four rows each."""
    folder = tmp_path / "captioned"
    shutil.copytree(GOLDEN / "pictures", folder)
    names = {"wide.png": "a cat .", "tall.png": "a dog .", "square.png": "a cup ."}
    rows = [{"image": name, "caption": caption} for _ in range(4) for name, caption in names.items()]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "captions.jsonl"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of 16 small pictures each, whose labels can be seen."""
    from labelled import folders

    return folders(tmp_path_factory.mktemp("labelled") / "photos")


@pytest.fixture
def feature_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, below that of the test, in which features are kept."""
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of one asset, the only thing pip can find, and an empty cache."""
    folder = tmp_path / "links"
    folder.mkdir()
    file = folder / "vita_sample_asset-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("vita_sample_asset/weights.bin", CONTENT)
        archive.writestr("vita_sample_asset/__init__.py", "raise SystemExit('imported')")
        info = "vita_sample_asset-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vita-sample-asset\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))
    add(monkeypatch, digest(file))
    return file


def vita(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own; a new interpreter where `environment` is Python's own."""
    from forked import run_command
    from messages import record_stderr

    words, whole = [*map(str, arguments)], {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    if any(name.startswith("PYTHON") for name in environment):
        line = [sys.executable, "-m", "vita_core", *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=whole, timeout=300)
    else:
        done = run_command(words, whole, timeout=300)
    record_stderr(done.stderr)
    return done
