"""The geometry of an encoder, in integers: what a plugin's ``shape`` function returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vita_core.errors import VitaError
from vita_core.plugins.native import NativeSize

__all__ = ["Shape", "Stage", "pair"]


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (rows, cols) of a side, or of a list of both."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class Stage:
    """One index of ``select_layer``: 0 is the embeddings (a CNN's stem), k is the output of block (a CNN's stage) k.

    `parameters` and `macs` (multiply-accumulates for one picture of the configured size) count this step alone, so an
    encoder that is truncated after stage k costs the sum of stages 0..k.
    """

    channels: int
    grid: tuple[int, int]
    parameters: int
    macs: int


@dataclass(frozen=True)
class Shape:
    """Geometry of an encoder, known before any weight is read.

    `image_size` is (height, width) in pixels. `prefix_tokens` is the number of tokens before the patch tokens (CLS,
    registers), `suffix_tokens` of those behind them. `norm_parameters` is the number of parameters of the final norm, or None
    if the encoder has no final norm (``norm: true`` is then an error). `first_layer` is 1 if the embeddings cannot be selected.
    `native` is set if the encoder keeps the aspect of each picture; the other numbers are then those of a square picture of
    `native.square` pixels. `size_from` is what states `image_size`, if it is not the checkpoint's ``config.json``:
    ``preprocessor: KEY``. `linears` are name, inputs and outputs of the linear layers of one block, and empty if the blocks
    differ or if it is not known: ``vita plan`` then does not tell how many parameters an adapter has.

    An encoder of videos states `frames`, the number of frames of one video, and `steps`, the number of its positions in
    time. The grid of each stage is then that of one step, and its `macs` are those of a whole video.
    """

    image_size: tuple[int, int]
    stages: tuple[Stage, ...]
    prefix_tokens: int = 0
    norm_parameters: int | None = None
    first_layer: int = 0
    native: NativeSize | None = None
    suffix_tokens: int = 0
    frames: int | None = None
    steps: int = 1
    size_from: str | None = None
    linears: tuple[tuple[str, int, int], ...] = ()

    def __post_init__(self) -> None:
        sizes = [size for stage in self.stages for size in (stage.channels, *stage.grid)]
        if not self.stages or min(*sizes, *self.pixels, self.steps) < 1:
            raise VitaError(
                f"the encoder's shape has no features: {self.image_size} pixels, stages {self.stages[:2]}. "
                "Try: check the sizes in the checkpoint's config.json (image_size, patch_size, hidden_size)"
            )

    @property
    def layers(self) -> int:
        """Number of blocks (transformer) or stages (CNN), without the embeddings."""
        return len(self.stages) - 1

    @property
    def pixels(self) -> tuple[int, ...]:
        """The shape of one input: (3, height, width) of a picture, (frames, 3, height, width) of a video."""
        return (3, *self.image_size) if self.frames is None else (self.frames, 3, *self.image_size)

    @classmethod
    def from_stages(
        cls,
        image_size: tuple[int, int],
        stages: Iterable[tuple[int, tuple[int, int], int, int]],
        norm_parameters: int | None = None,
        prefix_tokens: int = 0,
        first_layer: int = 0,
    ) -> Shape:
        """Return the shape of any encoder from (channels, grid, parameters, macs) of each layer, the stem first."""
        return cls(image_size, tuple(Stage(*stage) for stage in stages), prefix_tokens, norm_parameters, first_layer)

    @classmethod
    def vit(
        cls,
        *,
        image_size: int | tuple[int, int],
        patch_size: int,
        width: int,
        layers: int,
        mlp_width: int,
        embedding_parameters: int,
        block_parameters: int,
        prefix_tokens: int = 0,
        norm_parameters: int | None = None,
        mlp_matrices: int = 2,
        linears: Iterable[str] = (),
    ) -> Shape:
        """Return the shape of a plain vision transformer (arXiv 2010.11929).

        One block costs, for T tokens of width C, ``T * (4 C^2 + m C M) + 2 T^2 C`` multiply-accumulates with
        m = `mlp_matrices` (2; 3 for a gated MLP) and M = `mlp_width`; the patch embedding ``N * 3 p^2 C``. `linears` are the
        names of the linear layers in a block: four of the attention, and two of the MLP, the one that makes it wide first.
        """
        height, width_px = pair(image_size)
        grid = (height // patch_size, width_px // patch_size)
        patches = grid[0] * grid[1]
        tokens = patches + prefix_tokens
        block_macs = tokens * (4 * width * width + mlp_matrices * width * mlp_width) + 2 * tokens * tokens * width
        stem = Stage(width, grid, embedding_parameters, patches * 3 * patch_size * patch_size * width)
        block = Stage(width, grid, block_parameters, block_macs)
        sizes = [(width, width)] * 4 + [(width, mlp_width), (mlp_width, width)]
        named = tuple((name, *pair) for name, pair in zip(linears, sizes, strict=False))
        return cls((height, width_px), (stem, *[block] * layers), prefix_tokens, norm_parameters, linears=named)
