"""``tower.options`` of timm towers."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """`architecture`: timm's name, for weights without a config.json. `image_size`: pixels, default the checkpoint's."""

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    image_size: pydantic.PositiveInt | None = None
