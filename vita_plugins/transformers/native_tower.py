"""A vision model of transformers that keeps the size of each picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import Tensor, nn

from vita_core import NoBlock
from vita_plugins.transformers.base import LibraryTower
from vita_plugins.transformers.experts import separate_experts
from vita_plugins.transformers.native import check_native, encode_native, remove_heads
from vita_plugins.transformers.natives import NATIVES, Native


class NativeTower(LibraryTower):
    """Runs the vision models in `vita_plugins.transformers.natives.NATIVES`, up to the last selected layer."""

    family: Native

    def build_encoder(self) -> nn.Module:
        part, model = self.built()
        self.family = family = NATIVES[type(part).model_type]
        self.norm_path = family.norm
        remove_heads(model, family, merger=self.merger)
        separate_experts(model)
        keys = self.map_keys(part, model, family)
        between = [family.between] if family.between and self.blocks <= part.insert_layer_id + 1 else []
        for name in between:  # no selected layer is behind it
            setattr(model, name, nn.Identity())
        heads = "|".join([*family.heads, *family.merger, *between])
        own = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
        self.skips = [*keys.skips, (rf"^(?!(?:{'|'.join(own)})\.)(?:{heads or '-'})\.", "head")]
        self.block_key = rf"^{re.escape(family.blocks)}\.(\d+)\."
        blocks = model.get_submodule(family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        model.set_submodule(family.blocks, nn.ModuleList([*blocks[: self.blocks]] or [NoBlock()]))
        return model

    @property
    def merger(self) -> bool:
        """Whether the features are the output of the model's own merger."""
        return bool(self.settings.options.get("merger"))

    def load_model(self) -> None:
        if not self.is_loaded:
            super().load_model()
            check_native(self.encoder, self.family, self.shape, merger=self.merger)

    def encode_pictures(
        self, pictures: Sequence[Tensor], layers: Sequence[int]
    ) -> list[tuple[dict[int, Tensor], tuple[int, int]]]:
        assert self.encoder is not None
        return encode_native(self.encoder, self.family, pictures, layers, merger=self.merger)

    def in_run_order(self, encoder: nn.Module) -> list[tuple[str, nn.Parameter]]:
        later = tuple(f"{path}." for path in (self.family.norm, *self.family.merger) if path)

        def place(named: tuple[str, nn.Parameter]) -> float:
            if named[0].startswith(later):
                return math.inf
            if self.family.between and named[0].startswith(f"{self.family.between}."):
                return float(encoder.config.insert_layer_id) + 0.5
            block = re.match(str(self.block_key), named[0])
            return -1 if block is None else int(block[1])

        return sorted(encoder.named_parameters(), key=place)
