"""What `vita data check` finds in a data set, and the tokens that it counts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from data_sets import opened, turns, write, write_pictures
from PIL import Image

from vita_core import build_model, load_config
from vita_core.errors import CheckpointError, ConfigError
from vita_core.language.prompts import PICTURE_ID
from vita_core.language.tokenizing import open_tokenizer
from vita_core.planning.resolution import Resolved, resolve
from vita_core.training.counting import TokenCounter
from vita_core.training.data import SampleError
from vita_core.training.data.checking import check_source

SAID = turns("<image>\nwhat is this ?", "a cat .", "is it red ?", "no .")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "data")
    Image.new("RGB", (40, 20)).save(folder / "wide.png")
    shutil.copy(folder / "red.png", folder / "copy.png")
    (folder / "broken.png").write_bytes((folder / "red.png").read_bytes()[:50])
    return folder


@pytest.fixture
def resolved(tiny_config: Path) -> Resolved:
    return resolve(load_config(tiny_config))


def test_the_report(folder: Path) -> None:
    file = write(
        folder / "d.jsonl",
        {"image": "red.png", "caption": "red"},
        {"image": "copy.png", "caption": "red"},  # another file of the same bytes
        {"image": "copy.png", "caption": "another text"},
        {"image": ["wide.png", "green.png"], "conversations": SAID},
        {"conversations": turns("text", "only")},
        {"image": "broken.png", "caption": "x"},
        {"image": "gone.png", "caption": "x"},
        {"image": "red.png"},
        {"video": "gone.mp4", "conversations": turns("<video> ?", "x")},
    )
    seen: list[int] = []
    report = check_source(opened(file), tick=seen.append)
    assert sum(seen) == report.samples == 9
    assert report.rejected == {
        "a picture cannot be opened": 1, "a picture is missing": 1, "a video is missing": 1, "no answer": 1,
    }  # fmt: skip
    assert [row["where"] for row in report.rows] == [f"{file}:{line}:1" for line in (6, 7, 8, 9)]
    assert (report.turns, report.pictures, report.videos, report.text_only) == (6, 5, 0, 1)
    assert (report.duplicates, report.repeated_pictures) == (1, 2)
    assert report.sizes == [(8, 6), (8, 6), (40, 20)]
    assert (report.tokens, report.histogram, report.max_length) == ([], [], None)
    assert report.rate > 0
    assert check_source(opened(file), limit=2).samples == 2


def test_tokens_are_those_of_the_model(folder: Path, resolved: Resolved) -> None:
    """The lengths are those of what the built model puts together of text and pictures."""
    rows = [
        {"image": "red.png", "caption": "a red cup ."},
        {"image": ["wide.png", "green.png"], "conversations": SAID},
        {"conversations": turns("what is red ?", "a cup .")},
    ]
    source, counter, model = opened(write(folder / "d.jsonl", *rows)), TokenCounter(resolved), build_model(resolved)
    lengths, trained = [], 0
    for index in range(3):
        sample = source.sample(index)
        counted = counter.count(sample, [(8, 6)] * len(sample.pictures))
        embedded = model.llm.embed(__import__("torch").tensor([t for t in counted.tokens.ids if t != PICTURE_ID]))
        seen = [model.encode_images(model.prepare(ref.path).pixels) for ref in sample.pictures if ref.path]
        lengths.append(len(embedded) + sum(tokens.shape[0] * tokens.shape[1] for tokens in seen))
        assert counted.length == lengths[-1]
        trained += counted.trained
    report = check_source(source, counter=counter)
    assert report.tokens == [min(lengths), sorted(lengths)[1], max(lengths)]
    assert sum(count for _, count in report.histogram) == 3
    assert report.histogram[-1][0] >= max(lengths) > report.histogram[-1][0] - max(1, -(-max(lengths) // 10))
    assert (report.trained_tokens, report.max_length) == (trained, 256)


def test_a_sample_that_is_too_long_is_rejected(folder: Path, resolved: Resolved) -> None:
    file = write(folder / "d.jsonl", {"image": "red.png", "caption": "a " * 30}, {"image": "red.png", "caption": "a"})
    source = opened(file)
    length = TokenCounter(resolved).count(source.sample(0), [(8, 6)]).length
    exact = check_source(source, counter=TokenCounter(resolved, max_length=length))
    assert (exact.rejected, exact.max_length) == ({}, length)
    report = check_source(source, counter=TokenCounter(resolved, max_length=length - 1))
    assert report.rejected == {"too long": 1}
    assert report.rows[0]["detail"] == f"{length} tokens, at most {length - 1}"
    with pytest.raises(SampleError, match=rf"d\.jsonl:1:1: too long: {length} tokens, at most 20\. Try: "):
        TokenCounter(resolved, max_length=20).count(source.sample(0), [(8, 6)])


def test_a_stage_has_its_own_prompt_and_length(folder: Path, tiny_config: Path) -> None:
    stages = "training.stages=[{name: align, train: {projector: full}, learning_rate: 1.0e-3, prompt: plain, max_length: 30}]"
    resolved = resolve(load_config(tiny_config, [stages]))
    sample = opened(write(folder / "d.jsonl", {"image": "red.png", "caption": "a cup ."})).sample(0)
    counter = TokenCounter(resolved, stage="align")
    assert counter.max_length == 30
    assert counter.count(sample, [(8, 6)]).tokens.ids[0] == PICTURE_ID  # no question
    assert TokenCounter(resolved, stage="align", max_length=50).max_length == 50
    assert TokenCounter(resolved, max_length=10_000).max_length == 256  # the model's context
    with pytest.raises(ConfigError, match=r"--stage: no stage of this name: 'aling'\. Try: align"):
        TokenCounter(resolved, stage="aling")


def test_tiles_have_places_of_their_own(folder: Path, golden: Path) -> None:
    """VITA marks each tile: a wide picture is two tiles and a thumbnail."""
    tiled = ["images.tiles={min: 1, max: 2, thumbnail: true}", "prompt.template=qwen2p5_instruct", "device=cpu"]
    counter = TokenCounter(resolve(str(golden / "vita15"), tiled))
    sample = opened(write(folder / "d.jsonl", {"image": "wide.png", "caption": "a"})).sample(0)
    wide, square = counter.count(sample, [(40, 20)]), counter.count(sample, [(20, 20)])
    assert wide.tokens.visuals == [("image", 0)] * 3
    assert square.tokens.visuals == [("image", 0)]
    assert wide.pictures[0] == 3 * square.pictures[0]
    assert wide.length - square.length == 2 * square.pictures[0]


def test_the_tokenizer_is_that_of_the_model(golden: Path, tiny_config: Path, tmp_path: Path) -> None:
    for place in (str(golden / "vita15"), str(tiny_config)):
        resolved = resolve(place, ["device=cpu"])
        _, llm = resolved.language("this")
        tokenizer, stop = open_tokenizer(llm)
        model = build_model(resolved)
        assert stop == model.llm.stop_id
        assert tokenizer.get_vocab() == model.llm.tokenizer.get_vocab()
        assert tokenizer.chat_template == model.llm.tokenizer.chat_template
    weights = Path(resolve(str(tiny_config)).language("this")[1].settings.weights)
    shutil.copytree(weights, tmp_path / "bare")
    (tmp_path / "bare" / "generation_config.json").unlink()
    bare = load_config(tiny_config, [f"llm.weights={tmp_path / 'bare'}"])
    assert open_tokenizer(resolve(bare).language("this")[1])[1] == build_model(bare).llm.stop_id
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        CheckpointError, match=r"llm\.weights: cannot open the tokenizer of .*bare: .* Try: copy the tokenizer"
    ):
        open_tokenizer(resolve(bare).language("this")[1])
