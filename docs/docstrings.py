"""Turn the lines ``field: meaning`` of a dataclass's docstring into a Markdown list, for reference.md and the API page."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^(\w+): ", re.MULTILINE)


def field_items(docstring: str) -> str:
    return FIELD.sub(r"- `\1`: ", docstring)


class FieldLists(griffe.Extension):
    """The griffe extension that mkdocs.yml loads. It formats the docstring of every class that mkdocstrings reads."""

    def on_class_instance(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if cls.docstring is not None:
            head, _, rest = cls.docstring.value.partition("\n")
            cls.docstring.value = f"{head}\n{field_items(rest)}"
