"""Write docs/errors.md: every error of the code, by class and package, with its cause and what to do."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("vita_core", "vita_plugins")
BASE = "VitaError"
ANY = "..."
"""Stands for a value that has no name in the code."""
DEPTH = 3
SUGGESTIONS = {"nearest", "nearest_path"}
PLACE = re.compile("\ue000(.*?)\ue001")
"""A placeholder, between two private characters until it is written as Markdown."""
CODE = re.compile(r"(`[^`]*`)")
HEAD = f"""# Errors

`make docs` writes this page from the code. A test fails if they differ.

Every error that you can correct is a `{BASE}` or one of its subclasses. The command line prints it to stderr as one line that
starts with `error: `, and exits with 2 ([reference.md](reference.md#exit-codes) has all exit codes). The part after `Try: ` says
what to do. A program catches the class:

```python
from vita_core import VitaError, load_config

try:
    load_config("no-such-file.yaml")
except VitaError as error:
    print(error)  # no such config: 'no-such-file.yaml'. Try: a YAML file, a directory that vita train or ...
```

Search this page for the words of a message. Words in *italics* stand for a value, such as a path or a key, and `...` for any
text.
"""


@dataclass(frozen=True)
class Message:
    """What one place in the code says: the error's class, the package, the problem with its cause, and the cure."""

    kind: str
    room: str
    wrong: str
    cure: str


class Reader:
    """Reads the messages of one file. `kinds` are the names of the error classes. A variable is followed for `DEPTH` steps."""

    def __init__(self, tree: ast.Module, kinds: Collection[str]) -> None:
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) in kinds]

    def read(self) -> Iterator[tuple[str, str]]:
        """Yield the class and the text of each message."""
        for call in self.calls:
            for text in self._texts(call.args[0], 0) if call.args else []:
                lines = [self._text(line, 0) for line in call.args[1:]]
                yield (
                    _name(call.func),
                    "".join([text, *(line for line in lines if line.startswith("  "))]),
                )  # YAML to copy

    def _texts(self, node: ast.expr, depth: int) -> list[str]:
        """Return the texts that an expression may be: one, or several of a variable or a function of this file."""
        if isinstance(node, ast.Name) and depth < DEPTH:
            found = [text for value in self._assigned(node) for text in self._texts(value, depth + 1)]
            return found or [_placed(node.id)]
        if isinstance(node, ast.Call) and (function := self.functions.get(_name(node.func))) and depth < DEPTH:
            returned = [part.value for part in ast.walk(function) if isinstance(part, ast.Return) and part.value]
            return [text for value in returned for text in self._texts(value, depth + 1)]
        match node:
            case ast.IfExp(body=body, orelse=orelse):
                return [*self._texts(body, depth), *self._texts(orelse, depth)]
            case ast.Starred(value=ast.GeneratorExp(elt=line) | ast.ListComp(elt=line)):
                return self._texts(line, depth)
            case ast.Starred(value=ast.Call(func=ast.Attribute(attr="within"), args=[place])):
                return [f"{self._text(place, depth)}: {_placed('error')}"]
        return [self._text(node, depth)]

    def _text(self, node: ast.expr, depth: int) -> str:
        """Return one text, with placeholders for the values."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=values):
                return "".join(self._text(value, depth) for value in values)
            case ast.FormattedValue(value=value, conversion=conversion):
                text = self._value(value, depth)
                return f"'{text}'" if conversion == ord("r") else text
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._text(left, depth) + self._text(right, depth)
            case _:
                return self._value(node, depth)

    def _value(self, node: ast.expr, depth: int) -> str:
        """Return a value: its text if the code has it, else a placeholder with its name."""
        match node:
            case ast.Constant(value=value):
                return str(value)
            case ast.JoinedStr() | ast.BinOp(op=ast.Add()):
                return self._text(node, depth)
            case ast.IfExp(body=body, orelse=orelse):
                either = [self._value(side, depth) for side in (body, orelse)]
                return " or ".join(dict.fromkeys(filter(None, either))) if all(either) else _placed(ANY)
            case ast.Call(func=func) if _name(func) in SUGGESTIONS:
                return f" Did you mean {_placed(ANY)}?"
            case ast.Call(func=ast.Attribute(attr="join") | ast.Name("dotted"), args=[joined]):
                return _placed(_named(joined))
            case ast.Name() if depth < DEPTH and len(texts := self._constant(node, depth)) == 1:
                return texts[0]
        return _placed(_named(node))

    def _constant(self, node: ast.Name, depth: int) -> list[str]:
        """Return the texts that a variable is assigned, if all of them are texts with words."""
        values = self._assigned(node)
        if not values or not all(isinstance(value, ast.Constant | ast.JoinedStr) for value in values):
            return []
        texts = [self._text(value, depth + 1) for value in values]
        return texts if all(re.search(r"[a-z]{2}", PLACE.sub("", text)) for text in texts) else []

    def _assigned(self, node: ast.Name) -> list[ast.expr]:
        """Return what a variable is assigned in the function around it, if texts are among that."""
        around: ast.AST | None = node
        while around is not None and not isinstance(around, ast.FunctionDef):
            around = self.parents.get(around)
        if node.id in _constants():
            return [_constants()[node.id]]
        assigned = [
            part.value
            for part in (ast.walk(around) if around else [])
            if isinstance(part, ast.Assign | ast.NamedExpr) and part.value is not None
            for target in (part.targets if isinstance(part, ast.Assign) else [part.target])
            if isinstance(target, ast.Name) and target.id == node.id and node not in ast.walk(part)
        ]
        return (
            assigned if any(isinstance(value, ast.Constant | ast.JoinedStr | ast.IfExp) for value in assigned) else []
        )


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _named(node: ast.expr) -> str:
    """Return the last name in an expression that says what its value is."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if not name.startswith("_"):
            return name.lower().replace("_", " ")
        case ast.Call(func=ast.Name(id="str" | "repr" | "sorted" | "list" | "map" | "sum"), args=[*_, last]):
            return _named(last)
        case ast.Call(func=ast.Attribute(value=value, attr="strip" | "rstrip" | "as_posix" | "items" | "absolute")):
            return _named(value)
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key.replace("_", " ")
        case ast.Subscript(value=value) | ast.Starred(value=value) | ast.FormattedValue(value=value):
            return _named(value)
    return ANY


def _placed(name: str) -> str:
    return f"\ue000{name}\ue001"


def messages() -> list[Message]:
    """Return the messages of the whole code, each once, in the order of their packages and their words."""
    kinds = classes()
    found = {
        Message(kind, _room(file), *_split(text, kinds[kind].cure))
        for file, tree in _trees().items()
        for kind, text in Reader(tree, kinds).read()
        if re.search(r"[a-z]{2}", PLACE.sub("", text))
    }
    return sorted(found, key=lambda m: (m.room, PLACE.sub("~", m.wrong).lower(), m.wrong, m.cure, m.kind))


@cache
def _trees() -> dict[Path, ast.Module]:
    files = sorted(file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py"))
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}


@cache
def _constants() -> dict[str, ast.expr]:
    """Return the texts that modules assign to a name in capitals."""
    assigned = [part for tree in _trees().values() for part in tree.body if isinstance(part, ast.Assign)]
    return {
        target.id: part.value
        for part in assigned
        for target in part.targets
        if isinstance(target, ast.Name) and target.id.isupper() and isinstance(part.value, ast.Constant)
    }


@dataclass(frozen=True)
class Kind:
    """An error class: what its docstring says, and the cure that its ``__init__`` gives to all its messages, or ""."""

    says: str
    cure: str


@cache
def classes() -> dict[str, Kind]:
    """Return the error classes by their names: `VitaError`, then those that derive from it."""
    defined = [node for tree in _trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found: dict[str, Kind] = {}
    while True:
        new = [n for n in defined if n.name not in found and (n.name == BASE or found.keys() & {*map(_name, n.bases)})]
        if not new:
            return found
        for node in new:
            own = [
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and "Try: " in str(part.value)
            ]
            inherited = [found[name].cure for name in map(_name, node.bases) if name in found]
            cure = str(own[-1]).partition("Try: ")[2] if own else next(iter(inherited), "")
            found[node.name] = Kind(" ".join((ast.get_docstring(node) or "").split()), cure)


def _room(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).parts
    return "/".join(parts[:2])


def _split(text: str, usual: str) -> tuple[str, str]:
    """Return what is wrong, with its cause, and what to do: as the text says, as its class usually does, or as its cause does."""
    wrong, _, cure = " ".join(text.split()).partition("Try: ")
    caused = "what the error inside says" if _placed("error") in text or _placed("text") in text else ""
    return wrong.strip(), cure.strip() or usual or caused


def markdown(text: str) -> str:
    """Return a text as one cell of a table. What is in back-quotes stays code, with its placeholders as words."""
    cells = []
    for part in CODE.split(text):
        if part.startswith("`") and len(part) > 1:
            cells.append(PLACE.sub(lambda found: found[1].upper().replace(" ", "_"), part).replace("|", "\\|"))
        else:
            plain = re.sub(r"([\\*\[\]<>|`#]|(?<!\w)_|_(?!\w))", r"\\\1", part)
            cells.append(PLACE.sub(r"*\1*", plain.replace(_placed(ANY), ANY)))
    return "".join(cells).replace("....", "...")


def errors() -> str:
    """Return the page."""
    lines, found = [HEAD], messages()
    for kind, described in classes().items():
        own = [message for message in found if message.kind == kind]
        if not own:
            continue
        lines += [f"## {kind}", "", described.says.replace("``", "`"), ""]
        for room in dict.fromkeys(message.room for message in own):
            lines += [f"### {kind} of {room}", "", "| what is wrong, and why | what to do |", "| --- | --- |"]
            lines += [f"| {markdown(m.wrong)} | {markdown(m.cure)} |" for m in own if m.room == room]
            lines += [""]
    return "\n".join(lines)
