"""Answer the questions of a benchmark in batches, and compute the loss of given answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from vita_core.benchmarking.settings import Settings, asked_settings
from vita_core.errors import ConfigError, VitaError
from vita_core.language.merging import IGNORED_LABEL
from vita_core.models.building import build
from vita_core.models.model import VisionLanguageModel
from vita_core.models.pictures import Picture, Prepared, prepare
from vita_core.models.videos import UNTILED, open_video
from vita_core.pixels.prefetching import prefetched
from vita_core.pixels.video import is_still
from vita_core.planning.resolution import Place, resolve
from vita_core.training.data import Sample, Turn
from vita_core.training.joint import Joint, collate
from vita_core.training.labelling import labelled

__all__ = ["Question", "Scorer", "open_scorer"]


@dataclass(frozen=True)
class Question:
    """A question of a benchmark. `place` names it in errors.

    `visuals` reads its pictures and videos: a list of PIL pictures and paths, empty or None for a question about text. `stated`
    is what the task says about generating, `answer` the answer whose loss is asked for.
    """

    place: str
    text: str
    visuals: Callable[[], Sequence[Any] | None]
    stated: Mapping[str, Any] = field(default_factory=dict)
    answer: str = ""


@dataclass(frozen=True)
class _Ready:
    """A question with its pictures. Those of one with a `video` are not cut into tiles, as in ``vita run --video``."""

    number: int
    question: Question
    pictures: list[Prepared]
    video: bool


class Scorer:
    """A model that is asked a benchmark's questions, `batch` at a time. `untiled` is the same model for videos."""

    def __init__(
        self, model: VisionLanguageModel, untiled: VisionLanguageModel, *, batch: int = 1, max_frames: int | None = None
    ) -> None:
        if batch < 1:
            raise VitaError(f"batch_size: {batch} is too small. Try: `--batch_size 1` or more")
        self.models = {False: model, True: untiled}
        self.batch, self.max_frames = batch, max_frames
        self.unused: set[str] = set()

    def answers(self, questions: Sequence[Question], *, progress: bool = True) -> list[str]:
        """Return the answer of each question. Those with the same settings share batches. Raises VitaError.

        `unused` then has the keys of the tasks' settings that were not used.
        """
        own = self.models[False].settings.generation
        asked: dict[str, tuple[Settings, list[int]]] = {}
        for number, question in enumerate(questions):
            with _placed(question):
                settings = asked_settings(question.stated, own)
            self.unused.update(settings.unused)
            asked.setdefault(f"{settings.generation}{settings.until}", (settings, []))[1].append(number)
        found = [""] * len(questions)
        with tqdm(total=len(questions), desc="vita", unit="question", disable=None if progress else True) as bar:
            for settings, numbers in asked.values():
                # the longest first, so that a batch has texts of like lengths, and that memory runs out early
                numbers.sort(key=lambda number: -len(questions[number].text))
                for rows, model in self._batches(questions, numbers):
                    with _placed(*(row.question for row in rows)):
                        texts = [row.question.text for row in rows]
                        answers = model.ask_rows([row.pictures for row in rows], texts, generation=settings.generation)
                    for row, answer in zip(rows, answers, strict=True):
                        found[row.number] = settings.ended(answer.text)
                    bar.update(len(rows))
        return found

    @torch.inference_mode()
    def losses(self, questions: Sequence[Question], *, progress: bool = True) -> list[tuple[float, bool]]:
        """Return for each question the mean loss of its answer's tokens, and whether greedy decoding would give them.

        The answer is written as in a training: with the tokens that end it, and without white space around it.
        """
        if self.models[False].settings.prompt.template == "plain":
            raise ConfigError(
                "prompt.template: plain writes answers without their question, so their loss says nothing. "
                "Try: `prompt.template: chat`, or a task whose output_type is generate_until"
            )
        found = [(0.0, False)] * len(questions)
        with tqdm(total=len(questions), desc="vita", unit="answer", disable=None if progress else True) as bar:
            for rows, model in self._batches(questions, range(len(questions))):
                with _placed(*(row.question for row in rows)):
                    batch = collate([_sample(model, row) for row in rows])
                logits, targets = Joint(model).read(batch)
                counted = targets != IGNORED_LABEL
                loss = F.cross_entropy(
                    logits.float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED_LABEL
                )
                means = (loss.sum(1) / counted.sum(1)).tolist()
                greedy = ((logits.argmax(-1) == targets) | ~counted).all(1).tolist()
                for row, mean, same in zip(rows, means, greedy, strict=True):
                    found[row.number] = (mean, same)
                bar.update(len(rows))
        return found

    def _batches(
        self, questions: Sequence[Question], numbers: Sequence[int]
    ) -> Iterator[tuple[list[_Ready], VisionLanguageModel]]:
        """Yield batches of questions whose pictures were read ahead, with the model for them. A batch has videos or none."""

        def read(number: int) -> _Ready:
            with _placed(questions[number]):
                return self._ready(number, questions[number])

        with prefetched(numbers, read, batch=self.batch) as batches:
            for batch in batches:
                for video, model in self.models.items():
                    if rows := [row for row in batch if row.video is video]:
                        yield rows, model

    def _ready(self, number: int, question: Question) -> _Ready:
        """Read the pictures and videos of a question, and prepare them for the tower."""
        found: list[Picture] = []
        video = False
        for visual in question.visuals() or ():
            if isinstance(visual, Image.Image):
                found.append(visual)
            elif not isinstance(visual, str | os.PathLike):
                raise VitaError(
                    f"neither a picture nor the path of a picture or video: {type(visual).__name__}. Audio is not supported. "
                    "Try: a task of pictures or videos"
                )
            elif is_still(visual):
                found.append(visual)
            else:
                found += open_video(self.models[True].resolved, Path(visual), self.max_frames)
                video = True
        model = self.models[video]
        pictures = [prepare(model.tower, model.settings.images, one, several=len(found) > 1) for one in found]
        return _Ready(number, question, [one.copied(model.tower.device) for one in pictures], video)


def open_scorer(
    place: Place, overrides: Sequence[str] = (), *, batch: int = 1, max_frames: int | None = None
) -> Scorer:
    """Return the scorer of a config or checkpoint. Raises VitaError."""
    model = build(resolve(place, overrides))
    untiled = resolve(place, [*overrides, *UNTILED])
    videos = VisionLanguageModel(untiled, model.tower, model.projector, model.llm)
    return Scorer(model, videos, batch=batch, max_frames=max_frames)


def _sample(model: VisionLanguageModel, row: _Ready) -> dict[str, Any]:
    """Return a question and its answer as a training sees them."""
    llm, prompt = model.llm, model.settings.prompt
    by_tile = llm.marks_tiles(prompt) and model.settings.images.anyres is None
    places = [len(picture.pixels) if by_tile else 1 for picture in row.pictures]
    sample = Sample((), (Turn(row.question.text, row.question.answer.strip()),))
    made = labelled(llm.tokenizer, prompt, sample, stop_id=llm.stop_id, places=places)
    return {
        "input_ids": torch.tensor(made.ids),
        "labels": torch.tensor(made.labels),
        "pixels": [picture.pixels for picture in row.pictures],
        "sizes": [picture.size for picture in row.pictures],
        "by_tile": by_tile,
    }


@contextmanager
def _placed(*questions: Question) -> Iterator[None]:
    """Put the place of the first question, and how many others share its batch, in front of an error."""
    try:
        yield
    except VitaError as error:
        others = f" (and {len(questions) - 1} in the same batch)" if len(questions) > 1 else ""
        raise VitaError(*error.within(f"{questions[0].place}{others}")) from error
