"""Labels are on answers only, token by token: as the projects' own arithmetic sets them, and as the tokenizer's template says."""

from __future__ import annotations

from typing import Any

import multimodal
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from vita_core.config.schema import PromptConfig
from vita_core.errors import ConfigError
from vita_core.language.conversations import CONVERSATIONS
from vita_core.language.prompts import PICTURE_ID, prompt_ids
from vita_core.training.data import PictureRef, Sample, SampleError, Turn
from vita_core.training.labelling import IGNORE, Labelled, labelled

SAID = [("what is this ?", "a red cat ."), ("is it on a mat ?", "yes , it is ."), ("where ?", "here")]
PICTURE = PictureRef("a.png", data=b"")
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = GENERATION.replace("{% generation %}", "").replace("{% endgeneration %}", "")
THINKING = (  # as Qwen3 does, it writes the empty thoughts of the last answer only
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' \n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def sample(turns: int, pictures: int = 1, **more: Any) -> Sample:
    said = tuple(Turn(question, answer) for question, answer in SAID[:turns])
    return Sample((PICTURE,) * pictures, said, **more)


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return multimodal.tokenizer()


@pytest.fixture(scope="module")
def llama() -> Any:
    """A BPE as Llama's: BOS comes first, and every text begins with a space."""
    bare = Tokenizer(models.BPE(unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    words = [
        *(text for pair in SAID for text in pair),
        "USER: ASSISTANT: S [INST] [/INST] <<SYS>> <</SYS>> \n abcdefgh",
    ]
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    bare.train_from_iterator(words, trainers.BpeTrainer(vocab_size=160, special_tokens=special))
    bare.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def with_pictures(tokenizer: Any, text: str) -> list[int]:
    """How LLaVA turns a text with marks into ids: the chunks one by one, and BOS once."""
    chunks = [tokenizer(chunk).input_ids for chunk in text.split("<image>")]
    bos = int(bool(chunks[0]) and chunks[0][0] == tokenizer.bos_token_id)
    ids = chunks[0]
    for chunk in chunks[1:]:
        ids = [*ids, PICTURE_ID, *chunk[bos:]]
    return ids


def unmasked(ids: list[int], rounds: list[tuple[int, int]], start: int) -> list[int]:
    """Labels where rounds of (instruction, whole) lengths follow each other: what is behind the instruction counts."""
    labels, place = [IGNORE] * len(ids), start
    for instruction, whole in rounds:
        labels[place + instruction : place + whole] = ids[place + instruction : place + whole]
        place += whole
    assert place == len(ids)
    return labels


def check(found: Labelled, ids: list[int], labels: list[int]) -> None:
    assert found.ids == ids
    assert found.labels == labels
    assert any(label != IGNORE for label in labels)


# the projects' own arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_vicuna_as_llava_masks_it(llama: Any, turns: int) -> None:
    """LLaVA counts the tokens of each round and of its instruction, less BOS and the space behind `ASSISTANT:`."""
    first = f"S USER: <image>\n{SAID[0][0]} ASSISTANT: {SAID[0][1]}"
    rounds = [first, *(f"USER: {q} ASSISTANT: {a}" for q, a in SAID[1:turns])]
    ids = with_pictures(llama, "".join(text + "</s>" for text in rounds))
    lengths = []
    for text in rounds:
        instruction = text.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        lengths.append((len(with_pictures(llama, instruction)) - 2, len(with_pictures(llama, text))))
    prompt = PromptConfig(template="vicuna_v1", system="S")
    check(labelled(llama, prompt, sample(turns)), ids, unmasked(ids, lengths, 1))


@pytest.mark.parametrize("turns", [1, 2])
def test_mistral_as_llava_masks_it(llama: Any, turns: int) -> None:
    first = f"[INST] <<SYS>>\nS\n<</SYS>>\n\n<image>\n{SAID[0][0]} [/INST] {SAID[0][1]} "
    rounds = [first, *(f"[INST] {q} [/INST] {a} " for q, a in SAID[1:turns])]
    ids = with_pictures(llama, "".join(text + "</s>" for text in rounds))
    lengths = []
    for text in rounds:
        instruction = text.split("[/INST] ")[0] + "[/INST] "
        lengths.append((len(with_pictures(llama, instruction)) - 2, len(with_pictures(llama, text))))
    prompt = PromptConfig(template="mistral_instruct", system="S")
    check(labelled(llama, prompt, sample(turns)), ids, unmasked(ids, lengths, 1))


def test_plain_as_llava_aligns(llama: Any) -> None:
    """The picture, the caption, a newline: no question, and everything behind the picture has a label."""
    ids = with_pictures(llama, f"<image>{SAID[0][1]}\n")
    skipped = len(with_pictures(llama, "<image>"))
    found = labelled(llama, PromptConfig(template="plain"), sample(1))
    check(found, ids, [IGNORE] * skipped + ids[skipped:])
    with pytest.raises(SampleError, match="more than one turn, which prompt plain cannot write: 2"):
        labelled(llama, PromptConfig(template="plain"), sample(2))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_qwen_as_vita_masks_it(byte_level: Any, turns: int) -> None:
    """VITA's rounds begin with the newline behind the answer before; there is none behind the last answer."""
    user, bot = "\n<|im_start|>user\n", "\n<|im_start|>assistant\n"
    asked = [f"<image>\n{SAID[0][0]}", *(question for question, _ in SAID[1:turns])]
    rounds = [f"{user}{q}<|im_end|>{bot}{a}<|im_end|>" for q, (_, a) in zip(asked, SAID, strict=False)]
    rounds[0] = "<|im_start|>system\nS<|im_end|>" + rounds[0]
    ids = with_pictures(byte_level, "".join(rounds))
    lengths = [
        (len(with_pictures(byte_level, text.split(bot)[0] + bot)), len(with_pictures(byte_level, text)))
        for text in rounds
    ]
    prompt = PromptConfig(template="qwen2p5_instruct", system="S")
    check(labelled(byte_level, prompt, sample(turns)), ids, unmasked(ids, lengths, 0))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_internvl_masks_each_message(byte_level: Any, turns: int) -> None:
    """Of an assistant's message, InternVL leaves out the header and the last newline, which nothing follows here."""
    ids, labels = [], []
    asked = [f"<image>\n{SAID[0][0]}", *(question for question, _ in SAID[1:turns])]
    messages = [("system", "S")]
    messages += [m for q, (_, a) in zip(asked, SAID, strict=False) for m in (("user", q), ("assistant", a))]
    header = len(byte_level("<|im_start|>assistant\n").input_ids)
    for role, text in messages:
        own = with_pictures(byte_level, f"<|im_start|>{role}\n{text}<|im_end|>\n")
        ids += own
        labels += [IGNORE] * header + own[header:-1] + [IGNORE] if role == "assistant" else [IGNORE] * len(own)
    prompt = PromptConfig(template="internvl2_5", system="S")
    check(labelled(byte_level, prompt, sample(turns)), ids[:-1], labels[:-1])


# every format -------------------------------------------------------------------------------------------------------


def answers_of(tokenizer: Any, found: Labelled) -> list[str]:
    """The text of each run of labelled tokens."""
    runs: list[list[int]] = [[]]
    for label in found.labels:
        runs += [[]] if label == IGNORE and runs[-1] else []
        runs[-1] += [label] * (label != IGNORE)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_format(byte_level: Any, name: str) -> None:
    """The labelled text is the answers and what ends them; what stands before the first is the prompt of `vita run`."""
    form, prompt = CONVERSATIONS[name], PromptConfig(template=name, system="S")
    turns = 1 if name == "plain" else 3
    found = labelled(byte_level, prompt, sample(turns, 2))
    stop = "\n" if name == "plain" else form.stop or "</s>"
    if stop.strip() and stop.strip() not in byte_level.get_vocab():
        stop = "</s>"
    assert answers_of(byte_level, found) == [form.lead + answer + stop for _, answer in SAID[:turns]]
    assert found.visuals == [("image", 0), ("image", 1)]
    first = next(place for place, label in enumerate(found.labels) if label != IGNORE)
    if name != "plain":
        assert found.ids[:first] == prompt_ids(byte_level, prompt, SAID[0][0], [1, 1])
    assert all(label in (IGNORE, token) for label, token in zip(found.labels, found.ids, strict=True))


def test_a_format_ends_answers_with_a_token_that_the_tokenizer_has(byte_level: Any) -> None:
    assert "<|end|>" not in byte_level.get_vocab()
    stop = byte_level.convert_tokens_to_ids("<|im_end|>")
    found = labelled(byte_level, PromptConfig(template="phi3_chat"), sample(2), stop_id=stop)
    assert answers_of(byte_level, found) == [answer + "<|im_end|>" for _, answer in SAID[:2]]


# the tokenizer's own template ---------------------------------------------------------------------------------------


def messages_of(turns: int) -> list[dict[str, str]]:
    asked = [f"<image>\n{SAID[0][0]}", *(question for question, _ in SAID[1:turns])]
    pairs = zip(asked, SAID, strict=False)
    return [{"role": r, "content": c} for q, (_, a) in pairs for r, c in (("user", q), ("assistant", a))]


@pytest.mark.parametrize("template", [GENERATION, CHATML])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_chat_as_transformers_masks_it(template: str, turns: int) -> None:
    """The same mask, whether the template marks the answers or not: transformers' own for the one that does."""
    tokenizer = multimodal.tokenizer()
    tokenizer.chat_template = GENERATION
    theirs = tokenizer.apply_chat_template(
        messages_of(turns), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    tokenizer.chat_template = template
    found = labelled(tokenizer, PromptConfig(), sample(turns))
    mark = tokenizer.convert_tokens_to_ids("<image>")
    ids = [PICTURE_ID if token == mark else token for token in theirs["input_ids"]]
    end = len(ids) - 1  # nothing follows the token that ends the last answer
    labels = [token if seen else IGNORE for token, seen in zip(ids, theirs["assistant_masks"], strict=True)]
    check(found, ids[:end], labels[:end])


@pytest.mark.parametrize("template", [GENERATION, CHATML, THINKING, ENDLESS])
def test_each_answer_follows_the_prompt_that_asks_for_it(template: str) -> None:
    tokenizer = multimodal.tokenizer()
    tokenizer.chat_template = template
    found = labelled(tokenizer, PromptConfig(), sample(3))
    for turn in range(
        1 if template == ENDLESS else 3
    ):  # without an end, the tokens of one answer reach into the next prompt
        asked = tokenizer.apply_chat_template(
            messages_of(3)[: 2 * turn + 1], tokenize=False, add_generation_prompt=True
        )
        prompt = with_pictures(tokenizer, asked)
        assert found.ids[: len(prompt)] == prompt
        assert found.labels[len(prompt) - 1] == IGNORE
        assert found.labels[len(prompt)] == found.ids[len(prompt)]
    texts = answers_of(tokenizer, found)
    endings = {THINKING: "<|im_end|>", ENDLESS: ""}
    assert texts[:2] == [answer + endings.get(template, "<|im_end|>") for _, answer in SAID[:2]]
    assert texts[2] == {THINKING: "<think>\n\n</think>\n\nhere<|im_end|>", ENDLESS: "here</s>"}.get(
        template, "here<|im_end|>"
    )


def test_samples_that_a_chat_template_does_not_take() -> None:
    """One sample does not stop a training: a template may change an answer that looks like its own marks."""
    tokenizer = multimodal.tokenizer()
    tokenizer.chat_template = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
    labelled(tokenizer, PromptConfig(), sample(2))
    thinking = Sample((), (Turn("what ?", "hm</think>a cat"),), where="d.jsonl:1:1")
    with pytest.raises(
        SampleError, match=r"d\.jsonl:1:1: the chat template does not take .*: in what .* answer 1 of 1"
    ):
        labelled(tokenizer, PromptConfig(), thinking)
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    labelled(tokenizer, PromptConfig(), sample(2))
    with pytest.raises(
        SampleError, match=r"the chat template does not take this sample: .* not accept the prompt: no system\."
    ):
        labelled(tokenizer, PromptConfig(), sample(2, system="Be short."))
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"prompt\.template: this tokenizer has no chat template"):
        labelled(tokenizer, PromptConfig(), sample(2))


@pytest.mark.parametrize("template", [multimodal.INTERNVL_TEMPLATE, CHATML])
def test_a_token_for_pictures(template: str) -> None:
    """Prompts as transformers' processors write them, of templates that take lists and of those that take texts."""
    tokenizer = multimodal.tokenizer()
    tokenizer.chat_template = template
    prompt = PromptConfig(image_token="<IMG_CONTEXT>", image_text="<img><image></img>")
    found = labelled(tokenizer, prompt, sample(2))
    assert answers_of(tokenizer, found) == [answer + "<|im_end|>" for _, answer in SAID[:2]]
    asked = prompt_ids(tokenizer, prompt, SAID[0][0], [1])
    assert found.ids[: len(asked)] == asked
    with pytest.raises(SampleError, match="a text holds the prompt's own mark for a picture: 2 of 1"):
        labelled(tokenizer, prompt, Sample((PICTURE,), (Turn("what is <IMG_CONTEXT> ?", "a cat"),)))


# pictures and videos ------------------------------------------------------------------------------------------------


def test_marks_stand_where_the_questions_say(byte_level: Any) -> None:
    turns = (Turn("compare <image> and", "no"), Turn("<image>\nand <video> ?", "yes"))
    asked = Sample((PICTURE,) * 3, turns, videos=(PICTURE,))
    found = labelled(byte_level, PromptConfig(template="vicuna_v1"), asked, places=[2, 1, 1], frames=[3])
    kinds = {"image": "#", "video": "@"}
    visuals = iter(found.visuals)
    text = "".join(
        kinds[next(visuals)[0]] if token == PICTURE_ID else byte_level.decode([token]) for token in found.ids
    )
    assert text == "USER: ##\ncompare # and ASSISTANT: no</s>USER: #\nand @@@ ? ASSISTANT: yes</s>"
    assert found.visuals == [("image", 0)] * 2 + [("image", 1), ("image", 2)] + [("video", 0)] * 3
    assert found.length([10] * 7) == len(found.ids) + 7 * 9


def test_text_only_and_the_prompts_own_question(byte_level: Any) -> None:
    prompt = PromptConfig(template="vicuna_v1", question="Say it")
    assert labelled(byte_level, prompt, sample(1, 0)).visuals == []
    caption = labelled(byte_level, prompt, Sample((PICTURE,), (Turn(None, "a cat"),), system="own"))
    shown = byte_level.decode([token for token in caption.ids if token != PICTURE_ID])
    assert shown == "own USER: \nSay it ASSISTANT: a cat</s>"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (Turn("<image> or <image> ?", "a"), "more <image> than pictures: 2 of 1"),
        (Turn("<video> ?", "a"), "more <video> than videos: 1 of 0"),
        (Turn("what ?", "an <image>"), "<image> in an answer"),
    ],
)
def test_samples_that_cannot_be_written(byte_level: Any, turn: Turn, reason: str) -> None:
    with pytest.raises(SampleError, match=f"d.json:3: {reason}"):
        labelled(byte_level, PromptConfig(template="vicuna_v1"), Sample((PICTURE,), (turn,), where="d.json:3"))


# tokenizers ---------------------------------------------------------------------------------------------------------


def test_a_token_is_cut_where_it_would_join_prompt_and_answer() -> None:
    """`: a` is one token here, but the prompt of `vita run` ends with the colon and the space."""
    tokenizer = multimodal.tokenizer()
    tokenizer.chat_template = ENDLESS
    space = tokenizer("a: a").input_ids
    assert len(space) == len(tokenizer("a: ").input_ids)  # the space joins the word
    found = labelled(tokenizer, PromptConfig(), Sample((), (Turn("what ?", "a"),)))
    prompt = tokenizer("user: what ? \nassistant: ").input_ids
    assert found.ids == [*prompt, *tokenizer("a").input_ids, tokenizer.eos_token_id]
    assert found.labels == [IGNORE] * len(prompt) + found.ids[len(prompt) :]


def test_a_tokenizer_without_offsets(byte_level: Any) -> None:
    class Slow:
        """The same tokenizer, as one that does not say which characters a token stands for."""

        is_fast = False

        def __call__(self, text: str, **options: Any) -> Any:
            assert "return_offsets_mapping" not in options
            return byte_level(text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(byte_level, name)

    prompt = PromptConfig(template="qwen2p5_instruct")
    assert labelled(Slow(), prompt, sample(3)) == labelled(byte_level, prompt, sample(3))
