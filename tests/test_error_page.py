"""docs/errors.md has every error that the code raises, each with what to do."""

from __future__ import annotations

import ast
import re
import sys

from conftest import REPOSITORY
from messages import KINDS, sites

sys.path.append(str(REPOSITORY / "docs"))
import error_page

PAGE = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")


def read(source: str) -> list[tuple[str, tuple[str, str]]]:
    """The class of each error in a source, with the two cells of its row."""
    read = error_page.Reader(ast.parse(source), {"VitaError", "ConfigError"}).read()
    cells = [(kind, error_page._split(text, "")) for kind, text in read]
    return [(kind, (error_page.markdown(wrong), error_page.markdown(cure))) for kind, (wrong, cure) in cells]


def test_the_page_is_up_to_date() -> None:
    assert error_page.errors() == PAGE, "run `make docs`"


def test_every_raise_site_with_words_has_a_row_of_its_class_and_package() -> None:
    rows = {(message.kind, message.room) for message in error_page.messages()}
    for site in sites():
        if re.search(r"[a-z]{3}", site.pattern.replace(".*", "")):
            assert (site.kind, "/".join(site.file.split("/")[:2])) in rows, site
    assert {*KINDS} <= {*error_page.classes()}
    assert len(error_page.messages()) > len(sites()) * 0.9


def test_every_row_says_what_to_do() -> None:
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 500
    assert [row for row in rows if not row[0].strip() or not row[1].strip()] == []


def test_a_value_is_its_name_and_a_text_is_itself() -> None:
    assert read("raise VitaError(f'no such file: {path}.{nearest(path)} Try: {advice}')") == [
        ("VitaError", ("no such file: *path*. Did you mean ...?", "*advice*"))
    ]
    assert read("raise errors.ConfigError(f'{self.key}: {value!r} | {len(x)} <b>. Try: `vita plan {name}`, _x_')") == [
        ("ConfigError", ("*key*: '*value*' \\| ... \\<b\\>.", "`vita plan NAME`, \\_x\\_"))
    ]


def test_a_variable_and_a_function_of_the_file_are_followed() -> None:
    source = """
def told(name):
    if name:
        return f"unknown: {name}. Try: another"
    return "no name. Try: one"

def check(many):
    wrong = "too many" if many else "too few"
    raise ConfigError(f"{wrong}: {many}. Try: less")

def look(name):
    raise VitaError(told(name))

def again(text):
    text = f"again {text}"
    raise VitaError(text)
"""
    assert sorted(read(source)) == [
        ("ConfigError", ("*wrong*: *many*.", "less")),
        ("VitaError", ("again *text*", "what the error inside says")),
        ("VitaError", ("no name.", "one")),
        ("VitaError", ("unknown: *name*.", "another")),
    ]
