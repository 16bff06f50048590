"""Draw the packages of vita_core as an SVG picture, with a row for each layer of the contract.

An arrow shows an import. It is left out where other imports already connect the two packages.
"""

from __future__ import annotations

import itertools

from rooms import Room, arrows

ROW, BOX, GAP, CHARACTER, MARGIN, NOTES = 72, 30, 26, 8.4, 20, 120
"""Sizes in pixels: the height of a row and of a box, the gap between boxes, the width of a letter, and the margins."""
STYLE = """
  rect.sheet { fill: #ffffff } rect.room { fill: #eef1fb; stroke: #4051b5; rx: 5 } rect.torch { fill: #fdf3e3; stroke: #b5761f }
  text { font: 14px ui-monospace, monospace; fill: #1f2433; text-anchor: middle }
  text.line { font-size: 12px; fill: #767b8a; text-anchor: end } line { stroke: #b9bdc9; stroke-dasharray: 5 5 }
  path.arrow { fill: none; stroke: #767b8a; stroke-width: 1.3; marker-end: url(#head) } #head path { fill: #767b8a }"""

Point = tuple[str, int]
"""A name and its floor (row). The name is a room, or ``above>below`` where a long arrow passes through the row."""


def draw(found: list[Room], light: set[str]) -> str:
    """Return the SVG text. A line separates the rooms in `light`, which import no torch, from the others."""
    floors = _compact(found)
    chains = [_chain(above, below, floors) for above, below in arrows(found)]
    rows = _ordered(floors, chains)
    x, width = _placed(rows, chains)
    width, height = width + NOTES, ROW * len(rows) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>The packages of vita_core. An arrow points from a package to one that it imports</title>",
        f"<style>{STYLE}\n</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect class="sheet" width="{width}" height="{height}"/>',
    ]
    border = _y(min(floors[name] for name in light if name in floors)) - (ROW - BOX) // 2
    parts.append(f'<line x1="{MARGIN}" x2="{width - MARGIN}" y1="{border}" y2="{border}"/>')
    parts.append(f'<text class="line" x="{width - MARGIN}" y="{border - 6}">may import torch</text>')
    parts.append(f'<text class="line" x="{width - MARGIN}" y="{border + 15}">imports no torch</text>')
    parts += [f'<path class="arrow" d="{_path(chain, x)}"/>' for chain in chains]
    for name, floor in floors.items():
        wide, kind = _width((name, floor)), "room" if name in light else "room torch"
        left, top = x[name, floor] - wide / 2, _y(floor)
        parts.append(f'<rect class="{kind}" x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{BOX}"/>')
        parts.append(f'<text x="{x[name, floor]:.0f}" y="{top + BOX - 10}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _compact(found: list[Room]) -> dict[str, int]:
    """Return the row of each room. Floors without rooms are left out."""
    used = sorted({room.floor for room in found})
    return {room.name: used.index(room.floor) for room in found}


def _chain(above: str, below: str, floors: dict[str, int]) -> list[Point]:
    """Return the points of an arrow, one on each floor that it touches."""
    between = range(floors[above] + 1, floors[below])
    return [(above, floors[above]), *((f"{above}>{below}", floor) for floor in between), (below, floors[below])]


def _ordered(floors: dict[str, int], chains: list[list[Point]]) -> list[list[Point]]:
    """Return the points of each floor from left to right. Each is near the middle of its neighbours, so few arrows cross."""
    rows: list[list[Point]] = [[] for _ in range(max(floors.values()) + 1)]
    for point in dict.fromkeys([*floors.items(), *(point for chain in chains for point in chain)]):
        rows[point[1]].append(point)
    best, fewest = rows, _crossings(rows, chains)
    for sweep in range(24):
        step = 1 if sweep % 2 == 0 else -1
        at = {point: index / len(row) for row in rows for index, point in enumerate(row)}
        for row in rows[::step]:
            near = {point: [at[other] for other in _neighbours(point, chains, -step)] or [at[point]] for point in row}
            row.sort(key=lambda point: sum(near[point]) / len(near[point]))
            at |= {point: index / len(row) for index, point in enumerate(row)}
        crossed = _crossings(rows, chains)
        if crossed < fewest:
            best, fewest = [list(row) for row in rows], crossed
    return best


def _crossings(rows: list[list[Point]], chains: list[list[Point]]) -> int:
    at = {point: index for row in rows for index, point in enumerate(row)}
    steps = list(dict.fromkeys((a, b) for chain in chains for a, b in itertools.pairwise(chain)))
    return sum(
        (at[a] - at[c]) * (at[b] - at[d]) < 0 for i, (a, b) in enumerate(steps) for c, d in steps[:i] if a[1] == c[1]
    )


def _neighbours(point: Point, chains: list[list[Point]], floors: int) -> list[Point]:
    """Return the points that an arrow connects with `point`, and that are `floors` floors below it (negative: above)."""
    return [other for chain in chains if point in chain for other in chain if other[1] == point[1] + floors]


def _placed(rows: list[list[Point]], chains: list[list[Point]]) -> tuple[dict[Point, float], int]:
    """Return the x of each point's middle, and the picture's width. Points move towards their neighbours, but stay apart."""
    x: dict[Point, float] = {}
    for row in rows:
        for left, point in zip([None, *row], row, strict=False):  # the last point is no other's left neighbour
            x[point] = 0.0 if left is None else x[left] + _apart(left, point)
        middle = (x[row[0]] + x[row[-1]]) / 2
        x |= {point: x[point] - middle for point in row}
    for _ in range(40):
        for row in rows:
            wanted = {
                p: [x[q] for q in (*_neighbours(p, chains, 1), *_neighbours(p, chains, -1))] or [x[p]] for p in row
            }
            x |= {point: sum(near) / len(near) for point, near in wanted.items()}
            for left, right in itertools.pairwise(row):  # move points that are too close apart, half the distance each
                missing = max(0.0, _apart(left, right) - (x[right] - x[left]))
                x[left], x[right] = x[left] - missing / 2, x[right] + missing / 2
            for left, right in itertools.pairwise(row):
                x[right] = max(x[right], x[left] + _apart(left, right))
    start = min(x[point] - _width(point) / 2 for point in x) - MARGIN
    end = max(x[point] + _width(point) / 2 for point in x) + MARGIN
    return {point: value - start for point, value in x.items()}, round(end - start)


def _width(point: Point) -> float:
    return 0 if ">" in point[0] else len(point[0]) * CHARACTER + 28


def _apart(left: Point, right: Point) -> float:
    return (_width(left) + _width(right)) / 2 + GAP


def _y(floor: int) -> int:
    return MARGIN + ROW * floor


def _path(chain: list[Point], x: dict[Point, float]) -> str:
    """Return a smooth curve from the bottom of the first box to the top of the last box."""
    drawn = f"M{x[chain[0]]:.0f} {_y(chain[0][1]) + BOX}"
    for above, below in itertools.pairwise(chain):
        start = _y(above[1]) + BOX
        end = _y(below[1]) + (0 if below is chain[-1] else BOX)
        bend = (start + _y(below[1])) / 2
        drawn += f"C{x[above]:.0f} {bend:.0f} {x[below]:.0f} {bend:.0f} {x[below]:.0f} {_y(below[1])}"
        drawn += "" if end == _y(below[1]) else f"V{end}"
    return drawn
