"""The ``tower.options`` of timm towers."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of a timm tower.

    `architecture`: timm's name of the model, for weights without a config.json. `image_size`: the side of the pictures in
    pixels, by default that of the checkpoint.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    image_size: pydantic.PositiveInt | None = None
