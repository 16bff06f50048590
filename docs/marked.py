"""Pages of which `make docs` writes a part: what stands between two comments."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["filled"]


def filled(page: str, name: str, lines: Iterable[str]) -> str:
    """Return a page with new lines between the comments called `name`."""
    head, begin, rest = page.partition(f"<!-- {name}: begin, written by `make docs` -->")
    _, end, tail = rest.partition(f"<!-- {name}: end -->")
    assert begin, name
    assert end, name
    return "\n".join([head + begin, "", *lines, "", end + tail])
