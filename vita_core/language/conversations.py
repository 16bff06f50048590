"""Prompt formats of other projects, as data. Their system texts are not here: a checkpoint's user gives its own. No torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONVERSATIONS", "IMAGE", "Conversation"]

IMAGE = "<image>"


@dataclass(frozen=True)
class Conversation:
    """One question, up to where the answer begins.

    turn: the whole, with ``{system}`` and ``{content}``. system: what stands for ``{system}`` where there is a system
    text. per_tile: ``<image>`` is repeated for every tile and one newline follows them all, as VITA does; otherwise one
    ``<image>`` and a newline stand for each picture, as in LLaVA.
    """

    system: str
    turn: str
    per_tile: bool = False

    def text(self, system: str | None, content: str) -> str:
        """The prompt of one question."""
        lead = "" if system is None else self.system.format(system=system)
        return self.turn.format(system=lead, content=content)

    def content(self, question: str, places: list[int]) -> str:
        """The question behind its pictures; picture k has ``places[k]`` ``<image>``."""
        if self.per_tile and places:
            return IMAGE * sum(places) + "\n" + question
        return "".join(IMAGE * count + "\n" for count in places) + question


# VITA's (vita/conversation.py) and LLaVA's (llava/conversation.py), by the names those projects call them
CONVERSATIONS = {
    "qwen2p5_instruct": Conversation(
        system="<|im_start|>system\n{system}<|im_end|>\n",
        turn="{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
        per_tile=True,
    ),
    "mixtral_two": Conversation(system="system:{system}</s>", turn="{system}\nuser:{content}</s>\nbot:", per_tile=True),
    "nemo": Conversation(system="{system}\n", turn="[INST]{system}{content}[/INST]", per_tile=True),
    "vicuna_v1": Conversation(system="{system} ", turn="{system}USER: {content} ASSISTANT:"),
    "mistral_instruct": Conversation(system="<<SYS>>\n{system}\n<</SYS>>\n\n", turn="[INST] {system}{content} [/INST]"),
    "plain": Conversation(system="{system}\n", turn="{system}{content}\n"),
}
