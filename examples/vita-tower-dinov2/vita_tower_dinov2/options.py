"""``tower.options`` of the dinov2 tower."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """`image_size`: pixels on a side, by default the checkpoint's own."""

    model_config = pydantic.ConfigDict(extra="forbid")
    image_size: pydantic.PositiveInt | None = None
