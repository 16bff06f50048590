"""Count the tokens of samples as a config would train on them: those of the text, and those of the pictures. Reads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from vita_core.errors import ConfigError
from vita_core.language.conversations import CONVERSATIONS
from vita_core.language.tokenizing import open_tokenizer
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import Resolved
from vita_core.training.data.samples import Sample, SampleError
from vita_core.training.labelling import IGNORE, Labelled, labelled

__all__ = ["Counted", "TokenCounter"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Counted:
    """The tokens of a sample. `pictures` are those of each picture, `length` is the number that the language model reads.

    The tokens of a video are not in it: they depend on how many frames it has.
    """

    tokens: Labelled
    pictures: tuple[int, ...]

    @property
    def length(self) -> int:
        """All tokens: the text's and the pictures'."""
        return self.tokens.length(self.pictures)

    @property
    def trained(self) -> int:
        """How many tokens have a label."""
        return sum(label != IGNORE for label in self.tokens.labels)


class TokenCounter:
    """Turns samples into tokens with a config's tokenizer and prompt, or the prompt and `max_length` of one of its stages.

    `max_length` is by default that of the stage, and never more than the language model's context. Raises ConfigError for a
    config without a language model and for an unknown stage, and CheckpointError if there is no tokenizer.
    """

    def __init__(self, resolved: Resolved, *, stage: str | None = None, max_length: int | None = None) -> None:
        _, llm = resolved.language("counting tokens")
        self.resolved, self.prompt = resolved, resolved.config.prompt
        self.tokenizer, self.stop_id = open_tokenizer(llm)
        context = llm.checkpoint_config.get("max_position_embeddings")
        if stage is not None:
            stages = {known.name: known for known in resolved.config.training.stages or ()}
            if stage not in stages:
                raise ConfigError(
                    f"--stage: no stage of this name: {stage!r}. Try: {', '.join(stages) or 'leave it out'}"
                )
            template = stages[stage].prompt or self.prompt.template
            self.prompt = type(self.prompt).model_validate({**self.prompt.model_dump(), "template": template})
            max_length = max_length or stages[stage].max_length
        limits = [limit for limit in (max_length, context) if limit is not None]
        self.max_length: int | None = min(limits) if limits else None
        self.of_size = lru_cache(maxsize=10_000)(self._of_size)

    def _of_size(self, size: Size) -> tuple[int, int]:
        """Return the tiles and the tokens of a picture of a size (width, height)."""
        plan = make_plan(self.resolved, picture=size)
        return plan.tiles, plan.tokens

    def count(self, sample: Sample, sizes: Sequence[Size]) -> Counted:
        """Return the tokens of a sample whose pictures have these sizes. Raises SampleError if it is too long."""
        found = [self.of_size(size) for size in sizes]
        form = CONVERSATIONS.get(self.prompt.template)
        by_tile = form is not None and form.per_tile and self.resolved.config.images.anyres is None
        places = [tiles for tiles, _ in found] if by_tile else None
        tokens = labelled(self.tokenizer, self.prompt, sample, stop_id=self.stop_id, places=places)
        counted = Counted(tokens, tuple(count for _, count in found))
        if self.max_length is not None and counted.length > self.max_length:
            raise SampleError("too long", f"{counted.length} tokens, at most {self.max_length}", sample.where)
        return counted
