"""The files of ``projector.weights``: which of their tensors are the projector's, and for which widths it was trained.

Besides the files that this project writes, these are the files of a first training stage of LLaVA and VITA: the projector's
keys begin with ``model.mm_projector.``, and other tensors may be beside them. Only headers are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vita_core.errors import CheckpointError
from vita_core.layouts.parts import NON_LORA
from vita_core.plugins.specs import WEIGHT_FILES
from vita_core.untrusted.tensorfiles import stated, tensor_shapes
from vita_core.weights.shards import named_files

__all__ = ["ProjectorFiles", "Widths", "counts", "projector_files", "trained_widths"]

# LLaVA saves `model.mm_projector.*`; LoRA training, torch.compile, DDP and DeepSpeed put names before it
PREFIX = re.compile(r"^(?:module\.|_orig_mod\.|base_model\.|model\.)*mm_projector\.")
IN_DIRECTORY = ("projector.safetensors", "mm_projector.safetensors", "mm_projector.bin", NON_LORA, *WEIGHT_FILES)
"""The files of a directory that may hold a projector. The first that exists is read."""
ADVICE = (
    "the projector.safetensors that vita train wrote, the mm_projector.bin of a first training stage, or leave "
    "`projector.weights` out"
)
Widths = tuple[int, int]
"""The width of the tower's tokens and that of the language model's."""
STATED = ("in_features", "out_features")


@dataclass(frozen=True)
class ProjectorFiles:
    """The `files` that hold a projector, and the shapes of its tensors by its own keys.

    With `prefixed`, only the tensors called ``mm_projector.*`` are the projector's. `stated` has the `in_features` and
    `out_features` that the file states, and `type` the projector's, as files of this project do.
    """

    where: str
    files: tuple[Path, ...]
    prefixed: bool
    shapes: Mapping[str, tuple[int, ...]]
    stated: Mapping[str, int]
    type: str | None = None

    def own_key(self, key: str) -> str | None:
        """Return the projector's own key for the key of a tensor, or None if the tensor is not the projector's."""
        if not self.prefixed:
            return key
        found = PREFIX.match(key)
        return None if found is None else key[found.end() :]


def projector_files(weights: str) -> ProjectorFiles:
    """Read the headers of a file, of the shards of an index, or of a directory. Raises CheckpointError."""
    path = Path(weights).expanduser()
    try:
        files = named_files(weights, IN_DIRECTORY, _is_projector, ADVICE)
        found = dict(tensor_shapes(files))
        said = stated(files)
        widths = {key: int(said[key]) for key in STATED if said.get(key, "").isdecimal()}
    except CheckpointError as error:
        raise CheckpointError(*error.within("projector.weights")) from error
    prefixed = any(map(_is_projector, found))
    stored = ProjectorFiles(str(path), tuple(files), prefixed, found, widths)
    own = {own: shape for key, shape in found.items() if (own := stored.own_key(key)) is not None}
    if not own and not widths:
        raise CheckpointError(
            f"projector.weights: {path} holds no projector: no tensor is called mm_projector.*. "
            "Try: the projector.safetensors that vita train wrote, or the mm_projector.bin of a first training stage"
        )
    return ProjectorFiles(str(path), tuple(files), prefixed, own, widths, said.get("type"))


def _is_projector(key: str) -> bool:
    return PREFIX.match(key) is not None


def trained_widths(files: ProjectorFiles, widths: Widths, parameters: Callable[[int, int], int]) -> Widths | None:
    """Return the widths that a projector was trained for: those that its file states, or that follow from its shapes.

    `widths` are those that it should have, and `parameters` counts its parameters for any widths. Returns None if the file
    states none and no widths explain the shapes, because it holds another projector.
    """
    if files.stated:
        return files.stated.get(STATED[0], widths[0]), files.stated.get(STATED[1], widths[1])
    if counts(files, widths, parameters):
        return widths
    sides = {side for shape in files.shapes.values() for side in shape}
    # some projectors join 4 or more tokens, so a side is a multiple of the tower's width
    inputs = sorted({side // joined for side in sides for joined in (1, 4, 9, 16) if side % joined == 0})
    pairs = [(a, b) for a in inputs for b in sorted(sides) if counts(files, (a, b), parameters)]
    return max(pairs, key=lambda pair: (pair[0] == widths[0]) + (pair[1] == widths[1]), default=None)


def counts(files: ProjectorFiles, widths: Widths, parameters: Callable[[int, int], int]) -> bool:
    """Return whether a projector of these widths has as many parameters as the files hold."""
    try:
        return parameters(*widths) == sum(math.prod(shape) for shape in files.shapes.values())
    except Exception:  # a plugin's function may fail in any way for widths that it was not written for
        return False
