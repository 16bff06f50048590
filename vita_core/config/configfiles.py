"""Find a config file, merge it over the files that it extends, and apply overrides. Each value keeps its place."""

from __future__ import annotations

import os
import reprlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vita_core.config.data import expand_data, expand_path
from vita_core.errors import ConfigError, contents, dotted, nearest
from vita_core.untrusted.yamlfiles import Document, Key, Mark, parse_value, read_yaml
from vita_core.weights.sources import expand

__all__ = ["config_file", "overridden", "read_config", "shipped_configs"]

PATH_KEYS: tuple[Key, ...] = (
    ("tower", "weights"),
    ("tower", "reduce", "weights"),
    ("tower", "reduce", "*", "weights"),
    ("tower", "towers", "*", "weights"),
    ("tower", "towers", "*", "reduce", "weights"),
    ("tower", "towers", "*", "reduce", "*", "weights"),
    ("tower", "adapter"),
    ("tower", "towers", "*", "adapter"),
    ("projector", "weights"),
    ("projector", "adapter"),
    ("llm", "weights"),
    ("llm", "adapter"),
    ("images", "anyres", "newline"),
)
"""Keys whose value may be a path; ``*`` is any place of a list. A relative path is relative to the file that contains it."""
CACHE_PATH: Key = ("training", "cache", "path")
"""A directory that need not exist yet."""
DATA_PATHS = ("path", "pictures")
"""Keys of a data set whose value is a path: ``data.NAME.path``."""


def shipped_configs() -> dict[str, Path]:
    """Return name and file of the configs that are shipped: inside the package in a wheel, next to it in a clone.

    A recipe of a training has the name ``recipes/NAME``.
    """
    package = Path(__file__).parent.parent
    inside, beside = package / "configs", package.parent / "configs"
    directory = inside if inside.is_dir() else beside
    files = [*sorted(directory.glob("*.yaml")), *sorted(directory.glob("recipes/*.yaml"))]
    names = {path.relative_to(directory).with_suffix("").as_posix(): path for path in files}
    return {name: path for name, path in names.items() if name != "base"}


def config_file(name: str | os.PathLike[str]) -> Path:
    """Return the config file for `name`: a YAML file, a directory with a config.yaml, or the name of a shipped config.

    Raises ConfigError if there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return path / "config.yaml"
        if (path / "config.json").is_file():
            quoted = shlex.quote(str(path))
            raise ConfigError(
                f"{path} is a checkpoint of another project, not a config: it has a config.json but no config.yaml. Try: "
                f"`vita run {quoted} --image PICTURE`, or `vita migrate {quoted} --out FILE.yaml` to write a config"
            )
        raise ConfigError(
            f"{path} holds neither a config.yaml nor a config.json: it holds {contents(path)}. Try: a directory that "
            "vita train or model.save wrote, or the directory of a VITA or LLaVA checkpoint"
        )
    if path.is_file():
        return path
    if path.exists():
        raise ConfigError(f"{path}: a device or a pipe, not a file. Try: save the config to a file first")
    shipped = shipped_configs()
    if str(name) in shipped:
        return shipped[str(name)]
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(
        f"no such config: {str(name)!r}.{nearest(str(name), [*shipped, *beside])} Try: a YAML file, a directory that vita "
        f"train or model.save wrote, or a shipped config: {', '.join(shipped)}"
    )


def read_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Document:
    """Read the config at `path` (see `config_file`), merge it over what it extends, and apply the overrides."""
    document = _read(config_file(path), ())
    result = overridden(document, overrides)
    if Path(path).expanduser().is_dir():
        _refuse_code(result, document.marks)
    return result


def _refuse_code(document: Document, own: Mapping[Key, Mark]) -> None:
    """Raise ConfigError where a model's `own` config allows code to run: whoever made the model wrote it, not the user."""
    for key, value in _values(document.data):
        if (
            key[-1] == "trust_remote_code"
            and key[0] in ("tower", "llm")
            and value
            and document.marks[key] == own.get(key)
        ):
            name = dotted(key)
            raise ConfigError(
                f"{own[key]}: {name}: the config inside a model's directory cannot allow the model's code. "
                f"Try: read that code, then `--set {name}=true`"
            )


def _values(data: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield the key and value of everything inside nested mappings and lists. `key` is that of `data`."""
    if isinstance(data, dict | list):
        for part, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield (*key, part), value
            yield from _values(value, (*key, part))


def overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Return `document` with ``key.key=value`` overrides applied."""
    data, marks = document.data, dict(document.marks)
    for override in overrides:
        _override(data, marks, override)
    return Document(data, marks)


def _read(file: Path, chain: tuple[Path, ...]) -> Document:
    """Read one file, make its paths absolute, and merge it over the file that it ``extends``."""
    file = Path(os.path.abspath(file))  # noqa: PTH100  # resolve() would follow links, but `extends` is relative to the link
    if file in chain:
        circle = " -> ".join(map(str, [*chain, file]))
        raise ConfigError(
            f"{file}:1:1: extends: the files extend each other in a circle: {circle}. Try: remove one `extends`"
        )
    document = read_yaml(file)
    data, marks = _with_paths(document.data, (), file.parent, document.marks.__getitem__), dict(document.marks)
    if "extends" not in data:
        return Document(data, marks)
    parent = _parent(data.pop("extends"), file.parent, marks[("extends",)])
    base = _read(parent, (*chain, file))
    if _is_other(base.data.get("tower"), data.get("tower")):
        del base.data["tower"]
    return Document(_merge(base.data, data), {**base.marks, **marks})


def _parent(stated: Any, base: Path, mark: Mark) -> Path:
    """Return the file that ``extends`` states in a file in `base`, or else the shipped config of that name."""
    shipped = shipped_configs()
    if isinstance(stated, str):
        if (base / stated).is_file():
            return base / stated
        if stated in shipped:
            return shipped[stated]
    known = [*(path.name for path in base.glob("*.yaml")), *shipped]
    raise ConfigError(
        f"{mark}: extends: no such file: {stated!r}.{nearest(str(stated), known)} Try: the path of a YAML file, relative to "
        f"{base}, or a shipped config: {', '.join(shipped)}"
    )


def _with_paths(value: Any, key: Key, base: Path, place: Callable[[Key], Mark]) -> Any:
    """Return the value of a key with the paths in it made absolute. They are relative to `base`. `place` is where a key is."""
    if isinstance(value, dict):
        return {part: _with_paths(inner, (*key, part), base, place) for part, inner in value.items()}
    if isinstance(value, list):
        return [_with_paths(inner, (*key, number), base, place) for number, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    pattern = tuple("*" if isinstance(part, int) else part for part in key)
    try:
        if key[0] == "data" and len(key) == 3 and key[2] in DATA_PATHS:
            return expand_data(value, base)
        if key == CACHE_PATH:
            return expand_path(value, base)
        return expand(value, base) if pattern in PATH_KEYS else value
    except (OSError, RuntimeError) as error:  # a name that is too long, an unknown user's home
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise ConfigError(
            f"{place(key)}: {dotted(key)}: not a usable path: {reprlib.repr(value)}: {reason}. Try: check the path"
        ) from error


def _is_other(below: Any, above: Any) -> bool:
    """Whether a section ``tower:`` names one encoder where the other names several, so that nothing of the other fits it."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return False
    return ("weights" in above and "towers" in below) or ("towers" in above and "weights" in below)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(data: dict[str, Any], marks: dict[Key, Mark], override: str) -> None:
    name, equals, text = override.partition("=")
    where = f"--set {name}"
    words = name.split(".")
    if not equals or not all(words):
        raise ConfigError(f"--set {override}:1:1: not of the form key.key=value. Try: `--set tower.select_layer=-1`")
    target: Any = data
    key: Key = ()
    for word in words[:-1]:
        part = _place_in(target, word, (*key, word))
        child = target[part] if isinstance(target, list) else target.get(part)
        target[part] = list(child) if isinstance(child, list) else dict(child) if isinstance(child, dict) else {}
        target, key = target[part], (*key, part)
    last = _place_in(target, words[-1], (*key, words[-1]))
    key = (*key, last)
    target[last] = _with_paths(parse_value(text, where), key, Path.cwd(), lambda _: Mark(where))
    for replaced in [old for old in marks if old[: len(key)] == key]:
        del marks[replaced]
    for depth in range(1, len(key) + 1):
        marks.setdefault(key[:depth], Mark(where))
    marks.update((inner, Mark(where)) for inner, _ in _values(target[last], key))


def _place_in(target: Any, word: str, key: Key) -> Any:
    """Return one word of a dotted key as a place in a list, or as it is in a mapping. Raises ConfigError for a wrong place."""
    if not isinstance(target, list):
        return word
    if word.isascii() and word.isdigit() and int(word) < len(target):
        return int(word)
    name, places = dotted(key), f"0..{len(target) - 1}" if target else "no place, because the list is empty"
    raise ConfigError(f"--set {name}:1:1: not a place in the list: {word!r}. Try: {places}")
