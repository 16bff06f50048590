"""The prompt formats of other projects, as data. This module does not import torch.

The projects' system texts are not included; set `prompt.system` to the text that the checkpoint was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["CONVERSATIONS", "IMAGE", "Conversation"]

IMAGE = "<image>"


@dataclass(frozen=True)
class Conversation:
    """The prompt format of a question, up to the place where the answer begins, and what follows it in a conversation.

    turn: the template of the prompt, with ``{system}`` and ``{content}``. Later questions have no system part.
    system: the template of the ``{system}`` part, used if there is a system text.
    per_tile: if true, there is one ``<image>`` per tile and one newline after all of them, as in VITA. If false, there is
    one ``<image>`` and one newline per picture, as in LLaVA.
    lead: the text before an answer. It belongs to the answer, because tokenizers join it with the first word.
    stop: the text that ends an answer, or "" for the tokenizer's own token.
    gap: the text between the end of an answer and the next question.
    """

    system: str
    turn: str
    per_tile: bool = False
    lead: str = ""
    stop: str = ""
    gap: str = ""

    def text(self, system: str | None, content: str) -> str:
        """Return the prompt for a system text, or None, and the content of a question."""
        lead = "" if system is None else self.system.format(system=system)
        return self.turn.format(system=lead, content=content)

    def dialogue(
        self, system: str | None, contents: Sequence[str], answers: Sequence[str], stop: str
    ) -> list[tuple[str, bool]]:
        """Return the parts of a conversation in order, each with whether it is an answer. `stop` ends each answer."""
        parts = []
        for number, (content, answer) in enumerate(zip(contents, answers, strict=True)):
            before = self.gap + self.text(None, content) if number else self.text(system, content)
            parts += [(before, False), (self.lead + answer + stop, True)]
        return parts

    def content(self, question: str, places: list[int]) -> str:
        """Return the question preceded by the ``<image>`` marks of its pictures: ``places[k]`` marks for picture k."""
        if self.per_tile and places:
            return IMAGE * sum(places) + "\n" + question
        return "".join(IMAGE * count + "\n" for count in places) + question


# the formats of VITA, LLaVA and InternVL (conversation.py of each), with the names those projects use; InternVL's
# `Hermes-2` is `internlm2-chat`
CONVERSATIONS = {
    "qwen2p5_instruct": Conversation(
        system="<|im_start|>system\n{system}<|im_end|>\n",
        turn="{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
        per_tile=True,
        stop="<|im_end|>",
        gap="\n",
    ),
    "mixtral_two": Conversation(
        system="system:{system}</s>", turn="{system}\nuser:{content}</s>\nbot:", per_tile=True, stop="</s>"
    ),
    "nemo": Conversation(system="{system}\n", turn="[INST]{system}{content}[/INST]", per_tile=True, stop="</s>"),
    "vicuna_v1": Conversation(system="{system} ", turn="{system}USER: {content} ASSISTANT:", lead=" ", stop="</s>"),
    "mistral_instruct": Conversation(
        system="<<SYS>>\n{system}\n<</SYS>>\n\n", turn="[INST] {system}{content} [/INST]", lead=" ", stop=" </s>"
    ),
    "vipllava": Conversation(system="{system}", turn="{system}###Human: {content}###Assistant:", lead=" "),
    "internvl2_5": Conversation(
        system="<|im_start|>system\n{system}<|im_end|>\n",
        turn="{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
        stop="<|im_end|>",
        gap="\n",
    ),
    "internlm2_chat": Conversation(
        system="<|im_start|>system\n{system}<|im_end|>",
        turn="{system}<|im_start|>user\n{content}<|im_end|><|im_start|>assistant\n",
        stop="<|im_end|>",
    ),
    "phi3_chat": Conversation(
        system="<|system|>\n{system}<|end|>", turn="{system}<|user|>\n{content}<|end|><|assistant|>\n", stop="<|end|>"
    ),
    "plain": Conversation(system="{system}\n", turn="{system}{content}\n"),
}
