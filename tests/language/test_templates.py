"""A chat template is a program of a stranger: it ends soon, in little memory, in a prompt or an error."""

from __future__ import annotations

from typing import Any

import multimodal
import pytest

from vita_core.config.schema import PromptConfig
from vita_core.errors import ConfigError
from vita_core.language.prompts import PICTURE_ID, prompt_ids
from vita_core.language.templates import chat_text

USER = [{"role": "user", "content": "What is this?"}]
BAD = {
    "divides by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "calls itself": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "20,000 brackets": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "RecursionError"),
    "includes a file": ("{% include '/etc/passwd' %}", "TypeError"),
    "a range too long": ("{% for i in range(999999999999) %}a{% endfor %}", "OverflowError"),
    "10 GB by a constant": ("{{ 'a' * 10000000000 }}", "400 MB"),
    "10 GB by a constant that no message needs": ("{% if not messages %}{{ 'a' * 10000000000 }}{% endif %}", "400 MB"),
    "10 GB by a loop": (
        "{% set n = namespace(t='a') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "400 MB",
    ),
    "a GB by a format": ("{{ '%999999999d' | format(1) }}", "400 MB"),
    "100 MB of text": ("{{ 'a' * 100000000 }}", "it writes 100,000,000 characters of 13"),
    "10^10 turns": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "2 seconds"),
    "the insides of Python": ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return multimodal.tokenizer()


def case(name: str) -> Any:
    mark = pytest.mark.reliability(
        door="chat template", fault=name, expected="an error that names `prompt.template`, soon"
    )
    return pytest.param(*BAD[name], marks=mark, id=name)


@pytest.mark.parametrize(("template", "reason"), [*map(case, BAD)])
def test_bad_templates(tokenizer: Any, template: str, reason: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(
        ConfigError, match=r"prompt.template: the tokenizer's chat template does not accept the prompt: "
    ) as e:
        chat_text(tokenizer, USER, asks=True)
    assert reason in str(e.value)
    assert str(e.value).endswith("Try: `prompt.template: plain`")


def test_a_longer_dialogue_is_tried_too(tokenizer: Any) -> None:
    """A template may be harmless until it sees what it waits for."""
    tokenizer.chat_template = "{% if messages | length > 1 %}{{ 'a' * (10 ** 10 * messages | length) }}{% endif %}fine"
    assert chat_text(tokenizer, USER, asks=True) == "fine"
    with pytest.raises(ConfigError, match="400 MB"):
        chat_text(tokenizer, [*USER, {"role": "assistant", "content": "a cat"}], asks=True)


def test_a_long_text_of_the_user_is_no_fault(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert len(chat_text(tokenizer, [{"role": "user", "content": "a" * 3_000_000}], asks=True)) == 3_000_000


@pytest.mark.parametrize(("times", "written"), [(0, 0), (2, 4)])
@pytest.mark.reliability(door="chat template", fault="loses or repeats the pictures", expected="an error that says so")
def test_pictures_that_a_template_loses(tokenizer: Any, times: int, written: int) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert prompt_ids(tokenizer, PromptConfig(), "What?", [1, 1]).count(PICTURE_ID) == 2
    tokenizer.chat_template = f"{{{{ (messages[0]['content'] ~ ' ') * {times} }}}}"
    with pytest.raises(ConfigError, match=f"chat template writes {written} of 2 pictures"):
        prompt_ids(tokenizer, PromptConfig(), "What?", [1, 1])
