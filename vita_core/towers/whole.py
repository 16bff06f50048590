"""Run an encoder by its own ``forward``. It holds what `BaseVisionTower` needs for encoders that are not taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from vita_core.errors import PluginError, VitaError
from vita_core.planning.geometry import Grid
from vita_core.towers.metadata import TowerMetadata
from vita_core.towers.tapping import Convolved, hidden_states

__all__ = ["WholeEncoder", "find_blocks"]


class WholeEncoder(TowerMetadata):
    """Takes hidden states from the blocks of an encoder by hooks while its own ``forward`` runs."""

    block_path: str | None = None
    norm_path: str | None = None

    def run_encoder(self, pixels: Tensor) -> object:
        """Call the encoder. Define it if its ``forward`` needs more than the pixels (B, 3, H, W). The result is not used."""
        assert self.encoder is not None
        return self.encoder(pixels)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[Mapping[int, Tensor], Grid]:
        """Run the encoder on pixels (B, 3, H, W). Return the hidden state of each layer, and the grid (rows, cols).

        A hidden state is (B, prefix + rows * cols + suffix, C). `layers` are ascending, without duplicates, and count as
        Hugging Face's ``hidden_states`` do: 0 is the embeddings, k the output of block k, before the final norm. An encoder
        of videos gets pixels (B, frames, 3, H, W), and its grid is (steps, rows, cols).

        By default the encoder's own ``forward`` runs up to the last of the `layers`, and hooks take the input and output of
        its blocks: (B, T, C) or (B, C, rows, cols). The grid of tokens is that of the last convolution before the blocks.
        """
        assert self.encoder is not None
        if self.settings.compile:
            raise VitaError(
                f"tower.compile: tower {self.resolved.spec.name!r} takes hidden states by hooks, which cannot be compiled. "
                "Try: `tower.compile: false`"
            )
        blocks = find_blocks(self.encoder, self.block_path)
        with Convolved(self.encoder, blocks) as convolved:
            kept = hidden_states(blocks, lambda: self.run_encoder(pixels), layers)
        grid = convolved.grid
        for layer, state in kept.items():
            if state.ndim == 4:  # (B, C, rows, cols)
                grid = (state.shape[2], state.shape[3])
                kept[layer] = state.flatten(2).transpose(1, 2)
        if grid is None:
            raise PluginError(
                f"tower {self.resolved.spec.name!r}: {type(self.encoder).__name__} makes its patches without a convolution, "
                "so their grid is not known. Try: define `encode`, which returns the grid"
            )
        return kept, grid

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the final norm to (B, T, C), for ``norm: true``. Define `norm_path`, or this, if the encoder has one."""
        if self.norm_path is None or self.encoder is None:
            raise VitaError(
                f"tower.norm: {type(self).__name__} states norm_parameters but has no final_norm(tokens). "
                "Try: `tower.norm: false`, or define norm_path or final_norm in the plugin"
            )
        normed: Tensor = self.encoder.get_submodule(self.norm_path)(tokens)
        return normed


def find_blocks(encoder: nn.Module, path: str | None = None) -> nn.ModuleList | nn.Sequential:
    """Return the list of an encoder's blocks: at `path`, or the list with the most parameters that is in no other list.

    Raises PluginError if there is none, or if `path` is something else.
    """
    name = type(encoder).__name__
    if path is None:
        found = dict(_lists(encoder))
        if not found:
            raise PluginError(
                f"{name} has no nn.ModuleList of blocks. Try: set `block_path` of the tower to the path of its blocks"
            )
        return max(found.values(), key=lambda blocks: sum(p.numel() for b in blocks for p in b.parameters()))
    try:
        blocks = encoder.get_submodule(path)
    except AttributeError as error:
        raise PluginError(
            f"block_path: {name} has no {path!r}: {error}. Try: one of {', '.join(dict(_lists(encoder))) or 'its lists'}"
        ) from None
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or len(blocks) == 0:
        raise PluginError(
            f"block_path: {path!r} of {name} is no list of blocks but a {type(blocks).__name__}. "
            "Try: the path of an nn.ModuleList or nn.Sequential"
        )
    return blocks


def _lists(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.ModuleList | nn.Sequential]]:
    """Yield the lists of two or more blocks that are in no other such list. The blocks of an nn.Sequential have one class."""
    for key, child in module.named_children():
        path = f"{prefix}{key}"
        equal = isinstance(child, nn.Sequential) and len({type(block) for block in child}) == 1
        if (
            isinstance(child, nn.ModuleList | nn.Sequential)
            and len(child) > 1
            and (equal or type(child) is nn.ModuleList)
        ):
            yield path, child
        else:
            yield from _lists(child, f"{path}.")
