"""The model `vita` of lmms-eval: ``lmms-eval eval --model vita --model_args config=CONFIG --tasks TASKS``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from loguru import logger

from vita_core.benchmarking.arguments import device_of, model_arguments, refuse
from vita_core.benchmarking.scoring import Question, open_scorer

__all__ = ["VitaModel"]


class VitaModel(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """Any config or checkpoint as a model of lmms-eval. Several processes each hold the whole model and answer their share.

    `arguments` are `config`, `max_frames`, and keys of the config with a dot (``tower.pool=2``), as in ``--set``. `device`,
    `batch_size` and `max_batch_size` are the options of that name. Raises VitaError.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        given = model_arguments(arguments, batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        own = device_of(device, self._world_size, self.accelerator.device)
        overrides = [*given.overrides, *([] if own is None else [f"device={own}"])]
        self.scorer = open_scorer(given.config, overrides, batch=given.batch, max_frames=given.max_frames)
        for note in self.scorer.models[False].resolved.notes if self._rank == 0 else ():
            logger.warning(f"vita: {note}")

    @property
    def batch_size(self) -> int:
        """The number of questions in a batch of one process."""
        return self.scorer.batch

    @property
    def device(self) -> torch.device:
        """The device of the language model, on which lmms-eval gathers the numbers of all processes."""
        return self.scorer.models[False].llm.device

    @property
    def chat_template(self) -> str:
        """lmms-eval asks for it with ``--apply_chat_template``. Raises VitaError: the config says how prompts are written."""
        refuse("--apply_chat_template")

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answer of each request, up to the texts that end it."""
        questions = []
        for request in requests:
            text, stated, visuals, number, task, split = request.args
            questions.append(self._question(text, visuals, number, task, split, stated=stated))
        answers = self.scorer.answers(questions, progress=self._rank == 0)
        if self.scorer.unused and self._rank == 0:
            logger.warning(f"vita: generation_kwargs that are not used: {', '.join(sorted(self.scorer.unused))}")
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Return the mean loss of each stated answer, of which lmms-eval takes the lowest, and whether it is the greedy one."""
        questions = []
        for request in requests:
            if len(request.args) != 6:
                refuse("acc_mutual_info")
            text, target, visuals, number, task, split = request.args
            answer = target if isinstance(target, str) else str(target(self.task_dict[task][split][number]))
            questions.append(self._question(text, visuals, number, task, split, answer=answer))
        losses = self.scorer.losses(questions, progress=self._rank == 0)
        return [GenerationResult(pair) for pair in losses]  # lmms-eval 0.7.3 would turn a bare pair into text

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raise VitaError: a question here has one turn."""
        refuse("generate_until_multi_round")

    def generate_visual_cot(self, requests: Sequence[Any]) -> list[str]:
        """Raise VitaError: no picture can be generated."""
        refuse("generate_visual_cot")

    def _question(self, text: str, visuals: Any, number: int, task: str, split: str, **asked: Any) -> Question:
        """Return a request as a question, whose pictures are read when they are needed."""

        def read() -> Any:
            return None if visuals is None else visuals(self.task_dict[task][split][number])

        return Question(f"{task}, document {number}", text, read, **asked)
