"""Questions of a benchmark: any number of pictures, videos or none, in batches, and the losses of given answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark import spread_answers
from conftest import GOLDEN
from PIL import Image

from vita_core.benchmarking.scoring import Question, Scorer, open_scorer
from vita_core.errors import VitaError
from vita_core.pixels.video import read_frames

TEXTS = ("what is this ?", "is it a cat or a dog in this picture ?", "is this red ?")
SHORT = {"max_new_tokens": 5, "temperature": 0, "do_sample": False}


def question(text: str, visuals: Sequence[Any] | None, **other: Any) -> Question:
    return Question("task, document 3", text, lambda: visuals, **{"stated": SHORT} | other)


@pytest.fixture
def scorer(tiny_config: Path, tmp_path: Path) -> Scorer:
    """A model whose answers depend on the pictures; some are cut into tiles."""
    return open_scorer(spread_answers(tiny_config, tmp_path / "saved"), ["images.tiles={max: 2}"], batch=1)


@pytest.fixture
def questions(video: Path) -> list[Question]:
    shown = {
        name: Image.open(GOLDEN / "pictures" / f"{name}.png").convert("RGB") for name in ("wide", "tall", "square")
    }
    return [
        question(TEXTS[0], [shown["wide"]]),
        question(TEXTS[1], [shown["tall"], str(GOLDEN / "pictures" / "square.png")]),
        question(TEXTS[2], [video]),
        question("<image> or <image> ?", [shown["square"], shown["tall"]], stated=SHORT | {"max_new_tokens": 3}),
        question(TEXTS[0], None),
        question(TEXTS[2], []),
        question(TEXTS[1], [shown["square"]]),
    ]


def test_answers_are_the_models_own_in_any_batch(scorer: Scorer, questions: list[Question], video: Path) -> None:
    model, untiled = scorer.models[False], scorer.models[True]
    found = scorer.answers(questions)
    frames = read_frames(video)
    for number in (0, 1, 3, 6):
        visuals = list(questions[number].visuals() or ())
        assert found[number] == model.ask(visuals, questions[number].text, max_new_tokens=3 if number == 3 else 5).text
    assert found[2] == untiled.ask(frames, TEXTS[2], max_new_tokens=5).text
    assert len(set(found)) >= 4
    together = Scorer(model, untiled, batch=4)
    assert together.answers(questions) == found
    last = found[4].split()[-1]
    assert scorer.answers([replace(questions[4], stated=SHORT | {"until": last})]) == [found[4].split(last)[0]]


def test_frames_are_whole_and_at_most_so_many(scorer: Scorer, video: Path) -> None:
    model, untiled = scorer.models[False], scorer.models[True]
    assert model.settings.images.tiles is not None
    assert untiled.settings.images.tiles is None
    few = Scorer(model, untiled, max_frames=2)
    assert [one.pixels.shape[0] for one in few._ready(0, question("?", [video])).pictures] == [1, 1]


def test_losses_are_the_language_models_own(scorer: Scorer, questions: list[Question]) -> None:
    model = scorer.models[False]
    llm, asked = model.llm, questions[0]
    answered = [replace(asked, answer=answer) for answer in (" cat", "dog", " a red cup .")]
    found = scorer.losses(answered)
    with torch.inference_mode():
        picture = model.prepare((asked.visuals() or ())[0])
        visual = torch.cat(model.visual_tokens([[picture]], False)[0][0])
        before, after = "user: ", f" {asked.text} \nassistant: "
        for one, (loss, greedy) in zip(answered, found, strict=True):
            ids = [llm.tokenizer(text).input_ids for text in (before, after, one.answer)]
            ids[2].append(llm.stop_id)
            embeds = torch.cat([llm.embed(torch.tensor(ids[0])), visual, llm.embed(torch.tensor(ids[1] + ids[2]))])
            labels = torch.tensor([[-100] * (len(embeds) - len(ids[2])) + ids[2]])
            read = llm.model(inputs_embeds=embeds[None], labels=labels)
            assert loss == pytest.approx(read.loss.item(), abs=1e-5)
            chosen = read.logits[0, -len(ids[2]) - 1 : -1].argmax(-1).tolist()
            assert greedy is (chosen == ids[2])
    mixed = [replace(one, answer="a cat") for one in questions[:3] + questions[4:]]
    together = Scorer(model, scorer.models[True], batch=4).losses(mixed)
    for (loss, _), (alone, _) in zip(together, scorer.losses(mixed), strict=True):
        assert loss == pytest.approx(alone, abs=1e-5)


def test_the_greedy_answer_is_greedy(scorer: Scorer, questions: list[Question]) -> None:
    longer = [replace(one, stated=SHORT | {"max_new_tokens": 64}) for one in questions]
    pairs = zip(longer, scorer.answers(longer), strict=True)
    asked, said = next(
        (one, answer) for one, answer in pairs if answer and len(answer.split()) < 60 and "<image>" not in answer
    )
    [(loss, greedy), (other, wrong)] = scorer.losses(
        [replace(asked, answer=said), replace(asked, answer=said + " cat")]
    )
    assert (greedy, wrong) == (True, False)
    assert loss < other


@pytest.mark.parametrize(
    ("visuals", "text", "message"),
    [
        ([{"array": [0.0]}], "?", "task, document 3: neither a picture nor .*: dict. Audio is not supported"),
        (["no.mp4"], "?", "task, document 3: no.mp4: no such video file"),
        (
            [Image.new("RGB", (9, 9))],
            "<image> <image> ?",
            r"document 3 \(and 1 in the same batch\): .* 2 times, .* is 1",
        ),
        ([Image.new("RGB", (64, 64))] * 20, "?", r"document 3 \(and 1 in the same batch\): the prompt has"),
    ],
)
def test_errors_name_the_document(scorer: Scorer, visuals: list[Any], text: str, message: str) -> None:
    asked = [question(text, visuals), question("?", None)]
    with pytest.raises(VitaError, match=message):
        Scorer(*scorer.models.values(), batch=2).answers(asked)


def test_wrong_settings(scorer: Scorer, tiny_config: Path) -> None:
    with pytest.raises(VitaError, match="batch_size: 0 is too small"):
        Scorer(*scorer.models.values(), batch=0)
    with pytest.raises(VitaError, match="task, document 3: generation_kwargs: num_beams=2"):
        scorer.answers([question("?", None, stated={"num_beams": 2})])
    with pytest.raises(VitaError, match=r"prompt.template: plain writes answers without their question"):
        open_scorer(tiny_config, ["prompt.template=plain"]).losses([question("?", None, answer="cat")])


def test_a_tower_of_videos(vivit: Path, tiny_llm: Path, video: Path, tmp_path: Path) -> None:
    config = {"tower": {"weights": str(vivit)}, "llm": {"weights": str(tiny_llm)}, "device": "cpu"}
    scorer = open_scorer(config)
    assert scorer.answers([question(TEXTS[0], [video])]) == [
        scorer.models[True].ask(video, TEXTS[0], max_new_tokens=5).text
    ]
    with pytest.raises(VitaError, match="document 3: a PIL picture: it is a still picture"):
        scorer.answers([question(TEXTS[0], [Image.new("RGB", (64, 64))])])
    with pytest.raises(VitaError, match="takes videos of 4 frames, not of 3"):
        Scorer(*scorer.models.values(), max_frames=3).answers([question("?", [video])])
