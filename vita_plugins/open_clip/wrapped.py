"""The encoders that open_clip builds with timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_plugins.open_clip.building import as_timm
from vita_plugins.open_clip.models import model_config
from vita_plugins.timm.tower import TimmTower


class OpenClipTimmTower(TimmTower):
    """Runs an encoder that open_clip builds with timm, as the tower `timm` does."""

    renames = ()
    nested = True

    @property
    def described(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        timm = as_timm(model_config(self.checkpoint_config, self.settings.options))
        assert timm is not None
        return timm, {}
