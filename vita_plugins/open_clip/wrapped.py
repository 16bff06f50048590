"""The encoders that open_clip builds with timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from vita_plugins.open_clip.building import as_timm
from vita_plugins.open_clip.keys import BESIDE, RENAMES
from vita_plugins.open_clip.models import model_config
from vita_plugins.timm.tower import TimmTower


class OpenClipTimmTower(TimmTower):
    """Runs an encoder that open_clip builds with timm, as the tower `timm` does."""

    renames = RENAMES
    inside = "visual.trunk."

    @property
    def described(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        timm = as_timm(model_config(self.checkpoint_config, self.settings.options))
        assert timm is not None
        return timm, {}

    def build_encoder(self) -> nn.Module:
        trunk = super().build_encoder()
        own = [(re.sub(r"^\^", r"^visual\.trunk\.", pattern), reason) for pattern, reason in self.skips]
        self.skips = [*BESIDE, (r"^visual\.head\.", "projection head"), *own]
        return nn.ModuleDict({"visual": nn.ModuleDict({"trunk": trunk})})
