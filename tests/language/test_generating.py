"""A batch reads what its prompts have in common once, and answers as each prompt alone would be."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from vita_core.config.schema import GenerationConfig, LLMConfig, PromptConfig
from vita_core.errors import CheckpointError
from vita_core.language.generating import cache_keyword, generate, shared_prefix
from vita_core.language.llm import PICTURE_ID, LanguageModel
from vita_core.language.merging import merge

GREEDY = GenerationConfig(temperature=0)
QUESTION = "what is this ?"


@pytest.fixture(scope="module")
def llm(tiny_llm: Path) -> LanguageModel:
    return LanguageModel(LLMConfig(weights=str(tiny_llm)), torch.device("cpu"))


@pytest.fixture(scope="module")
def sliding(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Layers that forget: what they keep of a prompt's beginning is not enough to go on from."""
    folder = tmp_path_factory.mktemp("sliding")
    for file in [*tiny_llm.glob("*token*"), *tiny_llm.glob("*.jinja")]:
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=28, num_key_value_heads=2, sliding_window=4, eos_token_id=1, **sizes)
    MistralForCausalLM(config).save_pretrained(folder)
    return LanguageModel(LLMConfig(weights=str(folder)), torch.device("cpu"))


def prompts(llm: LanguageModel, count: int) -> list[list[int]]:
    settings = PromptConfig(system="a cat in the picture .")
    return [llm.prompt(settings, QUESTION, 1) for _ in range(count)]


def pictures(lengths: Sequence[int]) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [[torch.randn(length, 24, generator=generator)] for length in lengths]


def answers(llm: LanguageModel, lengths: Sequence[int], shared: int) -> list[list[int]]:
    visual = pictures(lengths)
    embeds, mask = merge(prompts(llm, len(lengths)), visual, llm.embed, shared=shared)
    return generate(llm, GREEDY, embeds, mask, 6, shared=shared)


@pytest.mark.parametrize("lengths", [(4, 4, 4), (1, 7, 3)])
@pytest.mark.parametrize("model", ["llm", "sliding"])
def test_answers_are_those_of_each_alone(model: str, lengths: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    opened: LanguageModel = request.getfixturevalue(model)
    shared = shared_prefix(opened, prompts(opened, len(lengths)))
    assert (shared >= 7) == (model == "llm")
    scores: list[torch.Tensor] = []  # (B, words) of every step: a tiny model's answers say little
    hook = opened.model.lm_head.register_forward_hook(lambda *args: scores.append(args[2][:, -1]))
    alone, expected = [], []
    for row in pictures(lengths):
        embeds, mask = merge(prompts(opened, 1), [row], opened.embed)
        alone += generate(opened, GREEDY, embeds, mask, 6)
        expected.append(torch.cat(scores))
        scores.clear()
    assert answers(opened, lengths, shared) == alone
    hook.remove()
    torch.testing.assert_close(torch.stack(scores, dim=1), torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert (expected[0][0] - expected[1][0]).abs().max() > 1e-3


def test_the_common_part_is_read_once(llm: LanguageModel) -> None:
    read: list[tuple[int, int]] = []
    embeddings = llm.model.base_model.layers[0]
    hook = embeddings.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape[:2])))
    shared = shared_prefix(llm, prompts(llm, 3))
    answers(llm, (4, 4, 4), shared)
    hook.remove()
    length = len(prompts(llm, 1)[0]) + 3
    assert read[:2] == [(1, shared), (3, length - shared)]


def test_padding_stands_behind_the_common_part(llm: LanguageModel) -> None:
    ids = prompts(llm, 2)
    shared = shared_prefix(llm, ids)
    embeds, mask = merge(ids, pictures((1, 3)), llm.embed, shared=shared)
    assert mask.sum(1).tolist() == [len(ids[0]), len(ids[0]) + 2]
    assert mask[0].tolist() == [1] * shared + [0, 0] + [1] * (len(ids[0]) - shared)
    assert torch.equal(embeds[0, :shared], embeds[1, :shared])
    assert not embeds[0, shared : shared + 2].any()


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        ([[1, 2, PICTURE_ID, 3]], 0),  # nothing to share it with
        ([[1, 2, PICTURE_ID, 3], [1, 2, PICTURE_ID, 3]], 2),
        ([[1, 2, PICTURE_ID, PICTURE_ID], [1, 2, PICTURE_ID, 3]], 2),
        ([[1, 2, PICTURE_ID], [1, 4, PICTURE_ID]], 1),
        ([[1, 2, PICTURE_ID], [1, PICTURE_ID, 2]], 1),
        ([[PICTURE_ID, 3], [PICTURE_ID, 3]], 0),
    ],
)
def test_what_prompts_have_in_common(llm: LanguageModel, rows: list[list[int]], length: int) -> None:
    assert shared_prefix(llm, rows) == length


def test_no_name_is_used_that_transformers_warns_of(llm: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    """transformers 5.24 renamed `past_key_values` to `cache`, and warns once of the old name."""
    library = logging.getLogger("transformers")
    logging.Logger.warning_once.cache_clear()
    library.addHandler(caplog.handler)
    try:
        answers(llm, (4,), 0)
        answers(llm, (1, 7, 3), 7)
        embeds = llm.embed(torch.tensor(prompts(llm, 1)[0][:3]))[None]
        assert llm.model.base_model(inputs_embeds=embeds, use_cache=True)[cache_keyword()].get_seq_length() == 3
    finally:
        library.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.reliability(door="weights of a language model", fault="NaN", expected="an error at the first question")
def test_a_language_model_with_nan(tiny_llm: Path) -> None:
    broken = LanguageModel(LLMConfig(weights=str(tiny_llm)), torch.device("cpu"))
    broken.model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="the language model's scores are not numbers"):
        answers(broken, (4,), 0)
