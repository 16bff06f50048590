"""What both towers of the plugin share: the library builds the model, and its own tables map the keys of a checkpoint."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import local_torch_dtype

from vita_core import BaseVisionTower, VitaError
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.finding import vision_config
from vita_plugins.transformers.geometry import build
from vita_plugins.transformers.keys import Keys, checkpoint_keys


class LibraryTower(BaseVisionTower):
    """A vision model of transformers. A checkpoint may hold it alone, or a larger model that it is a part of."""

    nested = True

    def built(self) -> tuple[PreTrainedConfig, PreTrainedModel]:
        """Return the config of the vision model, and the model with all its blocks. Raises VitaError for ``compile``."""
        if self.settings.compile:
            raise VitaError("tower.compile: tower 'transformers' does not support it yet. Try: `tower.compile: false`")
        part = vision_config(self.checkpoint_config)
        with local_torch_dtype(self.dtype):  # as the library does: some buffers get the dtype of the weights
            return part, build(part, None if self.settings.attention == "auto" else self.attention)

    def map_keys(self, part: PreTrainedConfig, model: nn.Module, family: Family) -> Keys:
        """Set the rules for the keys of the checkpoint, except for its skips, and return them all."""
        parent, own = self.checkpoint_config.get("model_type"), type(part).model_type
        keys = checkpoint_keys(model, family, None if parent == own else parent)
        self.renames, self.splits, self.outer_renames = keys.renames, keys.splits, keys.outer
        return keys
