"""Find the layers of a vision model of transformers by one run on the meta device: no table says where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vita_core import VitaError, parameter_count
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.recording import Event, record

Grid = tuple[int, int, int]
REPORT = "Try: report this to the authors of vita-core"


@dataclass(frozen=True)
class Layer:
    """Where a hidden state is: the output of a module, or its input.

    `steps` is the number of positions in time, `grid` is (rows, cols), `prefix` the number of tokens before the patches.
    `channels_last` says whether a map is (B, rows, cols, C) and not (B, C, rows, cols).
    """

    path: str
    after: bool
    channels: int
    steps: int
    grid: tuple[int, int]
    prefix: int
    channels_last: bool
    flops: int


@dataclass(frozen=True)
class Trace:
    """The layers of a model, from the embeddings on.

    `blocks` is the path of the list of blocks, or of the first of several. `norm` is the path of the final norm. `steps`
    says for each module with parameters of its own the layer that it belongs to; those after the last layer have a higher
    number. `order` holds these modules in the order they run.
    """

    blocks: str
    layers: tuple[Layer, ...]
    norm: str | None
    first_layer: int
    steps: dict[str, int]
    order: tuple[str, ...]


def inside(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def outermost(paths: Sequence[str]) -> list[str]:
    """Return the paths that are in no other of them, in their order."""
    return [path for path in dict.fromkeys(paths) if not any(path != one and inside(path, one) for one in paths)]


def groups(model: nn.Module, family: Family, called: set[str]) -> tuple[str, list[list[str]]]:
    """Return the path of the list of blocks, and the modules of each layer.

    It is the list with most parameters that is in no other list. Lists of the same length beside it hold other parts of the
    same layers, such as the patch embeddings of each stage.
    """
    every = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)]
    lists = [path for path in outermost(every) if any(inside(one, path) for one in called)]
    if family.blocks in every:  # GroupViT's blocks before the patches are grouped are in a list of stages
        lists = [family.blocks, *(path for path in lists if not inside(family.blocks, path))]
    wanted = [path for path in (family.blocks, family.older) if path in lists]
    if not lists or (family.blocks and not wanted):
        raise VitaError(f"{type(model).__name__} of transformers has no list of blocks that runs. {REPORT}")
    chosen = wanted[0] if wanted else max(lists, key=lambda path: parameter_count(model.get_submodule(path)))
    count = len(model.get_submodule(chosen))
    beside = [
        path
        for path in lists
        if path != family.more
        and path.rpartition(".")[0] == chosen.rpartition(".")[0]
        and len(model.get_submodule(path)) == count
    ]
    parts: list[list[str]] = [[]]
    for index in range(count):
        parts[-1] += [f"{path}.{index}" for path in beside]
        if family.only is None or type(model.get_submodule(f"{chosen}.{index}")).__name__ == family.only:
            parts.append([])
    further = [] if family.more is None else model.get_submodule(family.more)
    return chosen, [*parts[:-1], *([f"{family.more}.{index}"] for index, _ in enumerate(further))]


def last_event(model: nn.Module, family: Family, events: list[Event], parts: list[str]) -> int:
    """Return the index of the event with the hidden state of a layer: its last output, before any downsampling."""
    own = [index for index, event in enumerate(events) if any(inside(event.path, part) for part in parts)]
    top = outermost([events[index].path for index in own])
    last = max(index for index in own if events[index].after and events[index].path in top)
    inner = [
        index
        for index in own
        if inside(events[index].path, events[last].path) and events[index].path != events[last].path
    ]
    direct = outermost([events[index].path for index in inner])
    down = [path for path in direct if type(model.get_submodule(path)).__name__ == family.down]
    if not down and len(direct) > 1 and shrinks(events, direct[-1]):
        down = direct[-1:]
    return next(index for index in inner if events[index].path == down[0]) if down else last


def shrinks(events: list[Event], path: str) -> bool:
    """Return whether a module gives fewer positions than it gets."""
    given = next(event.tensor.shape for event in events if event.path == path and not event.after)
    made = next(event.tensor.shape for event in events if event.path == path and event.after)
    fewer = sum(after < before for before, after in zip(given[1:], made[1:], strict=False))
    return (
        len(given) == len(made)
        and fewer >= (2 if len(given) == 4 else 1)
        and not (len(given) == 3 and given[1] <= made[1])
    )


def trace(model: nn.Module, family: Family, arguments: dict[str, Any], pixels: Tensor, *, still: bool = True) -> Trace:
    """Return the layers of a model on the meta device. It runs pictures or, unless `still`, videos."""
    events = record(model, arguments)
    blocks, parts = groups(model, family, {event.path for event in events})
    start = next(index for index, event in enumerate(events) if any(inside(event.path, part) for part in parts[0]))
    ends = [start, *(last_event(model, family, events, part) for part in parts)]
    grids = Grids(model, events, pixels, still=still)
    layers = [grids.layer(index, family) for index in ends]
    first = int(events[start].tensor is pixels)
    last = events[ends[-1]]
    norm = next(final_norms(model, events[ends[-1] + 1 :], last.tensor), None) if layers[-1].channels_last else None
    return Trace(blocks, tuple(layers), norm, first, *places(model, events, blocks, ends))


def places(
    model: nn.Module, events: list[Event], blocks: str, ends: list[int]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the layer of each module with parameters of its own, and these modules in the order they run.

    `ends` are the events with the hidden states. A module that is not called belongs where the one that contains it is
    called, and if that is the model itself, after the last layer if it stands behind the blocks.
    """
    reached: dict[str, int] = {}
    for index, event in enumerate(events):
        reached.setdefault(event.path, index)
    starts, behind = {}, False
    for path, module in model.named_modules():
        behind = behind or path == blocks
        if next(module.parameters(recurse=False), None) is None and next(module.buffers(recurse=False), None) is None:
            continue
        owner = path
        while owner and owner not in reached:
            owner = owner.rpartition(".")[0]
        late = behind and not isinstance(module, nn.Embedding)  # whose table is read: the queries of DeepSeek-OCR 2
        starts[path] = reached.get(owner, len(events) if late else -1)
    steps = {
        path: next((layer for layer, end in enumerate(ends) if start < end), len(ends))
        for path, start in starts.items()
    }
    return steps, tuple(sorted(starts, key=lambda path: starts[path]))


def final_norms(model: nn.Module, after: list[Event], state: Tensor) -> Iterator[str]:
    """Yield the norm that the model applies to the tokens of the last layer, or to one of them."""
    for event in after:
        module = model.get_submodule(event.path)
        if event.after or next(module.parameters(), None) is None:
            continue
        own = "Norm" in type(module).__name__ and not any(word in event.path for word in ("pool", "head"))
        if own and event.tensor.shape[-1] == state.shape[-1]:
            yield event.path
        if next(module.children(), None) is None:
            return


class Grids:
    """The grids of hidden states, by integers alone: those of convolutions, of ``patch_size``, and halves of them.

    A grid is (steps, rows, cols); a picture has one step.
    """

    def __init__(self, model: nn.Module, events: list[Event], pixels: Tensor, *, still: bool) -> None:
        self.model, self.events, self.size = model, events, (pixels.shape[-2], pixels.shape[-1])
        self.known: list[tuple[int, Grid]] = []
        patch = getattr(model.config, "patch_size", None)
        if still and isinstance(patch, int):
            self.known.append((0, (1, pixels.shape[-2] // patch, pixels.shape[-1] // patch)))
        for index, event in enumerate(events):
            if event.after and isinstance(model.get_submodule(event.path), nn.Conv2d | nn.Conv3d):
                made = event.tensor.shape  # a convolution in two dimensions runs the frames of a video as pictures
                steps = 1 if still else made[2] if len(made) == 5 else made[0]
                self.known.append((index, (steps, made[-2], made[-1])))
        self.last: tuple[Grid, int] | None = None

    def before(self, index: int) -> list[Grid]:
        """Return the grids that a state at this event may have, the likeliest first."""
        own = [grid for at, grid in reversed(self.known) if at <= index]
        if self.last is None:
            return own
        steps, rows, cols = self.last[0]
        return [self.last[0], (steps, (rows + 1) // 2, (cols + 1) // 2), *own]

    def layer(self, index: int, family: Family) -> Layer:
        """Return the layer at an event. Raises VitaError if no grid fits."""
        event = self.events[index]
        shape = (event.tensor if family.tokens is None else family.tokens(self.model, event.path, event.tensor)).shape
        grids, found = self.before(index), None
        if len(shape) == 4:
            first, last = (1, shape[2], shape[3]), (1, shape[1], shape[2])
            channels_last = last in grids and (family.channels_last or first not in grids)
            found = (last if channels_last else first, shape[3] if channels_last else shape[1], 0, channels_last)
        elif len(shape) == 3:
            tokens = shape[1] - family.suffix_of(self.model.config, self.size)
            windows = 1 if family.windows is None else int(getattr(self.model.config, family.windows)) ** 2
            extra = 0 if self.last is None else self.last[1]
            sizes = sorted((grid for grid in grids if math.prod(grid) <= tokens * windows), key=math.prod, reverse=True)
            exact = [grid for grid in grids if math.prod(grid) == (tokens - extra) * windows]
            grid = next(iter(exact or sizes), None)
            found = None if grid is None else (grid, shape[2], tokens - math.prod(grid) // windows, True)
        if found is None:
            raise VitaError(
                f"{type(self.model).__name__} of transformers: features of shape {tuple(shape)} do not fit a grid of "
                f"{' x '.join(map(str, grids[0][1:])) if grids else None}. {REPORT}"
            )
        grid, channels, prefix, channels_last = found
        self.last = (grid, prefix)
        return Layer(event.path, event.after, channels, grid[0], grid[1:], prefix, channels_last, event.flops)
