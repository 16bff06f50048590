"""Rules that map the keys of a checkpoint to those of a module. No tensor is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["KeyRules"]

Pattern = str


@dataclass(frozen=True)
class KeyRules:
    """Rules that map a checkpoint's keys to a module's keys, as data.

    renames: (regular expression, replacement) pairs, all applied in order.
    splits: (regular expression on the renamed key, replacements): the tensor is split on dim 0 into equal parts.
    skips: (regular expression on the renamed key, reason): tensors that the module does not use.
    """

    renames: Sequence[tuple[Pattern, str]] = ()
    splits: Sequence[tuple[Pattern, tuple[str, ...]]] = ()
    skips: Sequence[tuple[Pattern, str]] = ()

    def renamed(self, key: str) -> str:
        """Return the key after all renames."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def skipped(self, name: str) -> str | None:
        """Return why a tensor with this renamed key is skipped, or None if it is loaded."""
        return next((reason for pattern, reason in self.skips if re.search(pattern, name)), None)

    def targets(self, name: str) -> list[str]:
        """Return the module's keys for a renamed key: one, or several in the order of the parts if the tensor is split."""
        for pattern, parts in self.splits:
            if re.search(pattern, name):
                return [re.sub(pattern, part, name) for part in parts]
        return [name]

    def changes(self, name: str) -> bool:
        """Return whether a module's own key would not stay as it is, so that a saved module would not open again."""
        return self.renamed(name) != name or self.targets(name) != [name] or self.skipped(name) is not None
