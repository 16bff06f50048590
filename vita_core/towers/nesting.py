"""Find an encoder's tensors among those of a larger model, by their keys."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from vita_core.loading import KeyRules

__all__ = ["nested_rules"]

LATER_BLOCK = re.compile(r"\.[1-9]\d*\.")
"""Found in the keys of all blocks but the first of a list."""


def nested_rules(
    rules: KeyRules, wanted: Collection[str], stored: Iterable[str], outer: Sequence[tuple[str, str]] = ()
) -> KeyRules:
    """Return `rules` for a checkpoint with the keys `stored` in which a larger model contains the encoder.

    The encoder is below the prefix, such as ``model.vision_tower.``, under which the rules find most of its keys
    (`wanted`). The other tensors are skipped. The prefix is empty if the encoder is the whole model. `outer` are renames of
    the larger model's keys, which are used if more is found with them.
    """
    keys = [key for key in stored if not LATER_BLOCK.search(key)]  # a language model has thousands of the others
    plain, own = KeyRules(rules.renames, rules.splits), set(wanted)
    found, prefix = _prefix(plain, own, keys)
    if outer:
        more, other = _prefix(plain, own, [KeyRules(outer).renamed(key) for key in keys])
        prefix, outer = (other, outer) if more > found else (prefix, ())
    if not prefix:
        return rules
    start = re.escape(prefix)
    renames = [*outer, (rf"^(?!{start})", "beside."), (rf"^{start}", ""), *rules.renames]
    return replace(rules, renames=renames, skips=[(r"^beside\.", "other parts of the model"), *rules.skips])


def _prefix(rules: KeyRules, wanted: set[str], keys: Sequence[str]) -> tuple[int, str]:
    """Return how many wanted keys are below the best prefix, and that prefix."""
    most, chosen = 0, ""
    for prefix in sorted({prefix for key in keys for prefix in _paths(key)}, key=lambda path: (len(path), path)):
        names = [rules.renamed(key.removeprefix(prefix)) for key in keys if key.startswith(prefix)]
        found = len(wanted & {target for name in names for target in rules.targets(name)})
        # of two that find as much, the inner one: its rules need not know what is beside the encoder
        if found > most or (found == most > 0 and prefix.startswith(chosen)):
            most, chosen = found, prefix
    return most, chosen


def _paths(key: str) -> Iterator[str]:
    """Yield the paths of the modules that contain a tensor: "", "a." and "a.b." for "a.b.weight"."""
    parts = key.split(".")[:-1]
    for count in range(len(parts) + 1):
        if count and parts[count - 1].isdecimal():
            return
        yield "".join(f"{part}." for part in parts[:count])
