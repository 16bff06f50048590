"""Texts in a report are shown as they were typed. What a reader sees is what markdown-it makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_comparison import config, failed, write_comparison
from markdown_it import MarkdownIt

from vita_core.comparing.markdown import code, typed
from vita_core.comparing.report import write_report

TEXTS = [
    "<b>a cat</b>", "**a** *cat* and _a_ __dog__ or snake_case_name", "a | b | c", r"a \| b \ c\\", "`a` ``b``", "# a cat", "#",
    "- a", "+ a", "1. a", "12) a", "3.5 cats", "> a", "---", "===", "~~a~~ ~b~", "[a](http://b) ![c](d)", "[a]: /b",
    "&lt;b&gt; &", "a\\", "<!-- a -->", "http://a.org/_b_ www.a_b_.org", "| --- |", "$x$", "*", "^a^ {b}", "a cat!",
]  # fmt: skip
FLOWING = "a\ncat\r\n\n  with\ta\u2028hat "


def shown(markdown: str) -> tuple[list[str], set[str]]:
    """The text of each block and cell, and the names of all elements."""
    texts, kinds = [], set()
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown):
        kinds |= {token.type} | {child.type for child in token.children or ()}
        if token.type == "inline":
            texts.append("".join(child.content for child in token.children or ()))
    return texts, kinds


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_shown_as_it_was_typed(text: str) -> None:
    for markdown, at in (
        (typed(text), 0),
        (f"- {typed(text)}", 0),
        (f"| a | b |\n| - | - |\n| {typed(text)} | **{typed(text)}** |", 2),
    ):
        texts, kinds = shown(markdown)
        assert texts[at] == text
        assert not kinds & {
            "html_inline",
            "html_block",
            "code_inline",
            "heading_open",
            "link_open",
            "image",
            "em_open",
            "s_open",
        }
        assert len(texts) == (4 if at else 1)
    assert ("strong_open" in kinds) == bool(text)
    texts, _ = shown(code(text))
    assert texts == [text]


def test_a_text_is_one_line() -> None:
    assert typed(FLOWING) == code(FLOWING).strip("`") == "a cat with a hat"


@pytest.mark.parametrize("text", [one for one in TEXTS if "\\" not in one])
def test_the_texts_of_strangers_do_not_change_the_report(tmp_path: Path, text: str) -> None:
    plain, marked = config("plain", 0), config(f"b {text}", 1, [text])
    marked |= {"tower": text, "weights": text}
    comparison = write_comparison(tmp_path, [plain, marked, failed(f"c {text}", text)], [text, FLOWING], answer=text)
    texts, kinds = shown(write_report(tmp_path).read_text())
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "em_open", "s_open"}
    assert f"{text}{text}" in texts
    assert f"failed: {text}" in texts
    assert f"b {text}: {text}" in texts[-1] or any(f"Not on equal terms: b {text}: {text}" in one for one in texts)
    assert all(note in texts for note in comparison["notes"])
    assert "a cat with a hat" in texts
    assert comparison["verdict"] in texts
