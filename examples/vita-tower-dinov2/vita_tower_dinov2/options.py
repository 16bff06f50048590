"""The ``tower.options`` of the dinov2 tower."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of a dinov2 tower.

    `image_size`: the side of the pictures in pixels, by default that of the checkpoint.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    image_size: pydantic.PositiveInt | None = None
