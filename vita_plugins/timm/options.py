"""The ``tower.options`` of timm towers."""

from __future__ import annotations

from typing import Literal

import pydantic


class Options(pydantic.BaseModel):
    """The options of a timm tower.

    `architecture`: timm's name of the model, for weights without a config.json. `image_size`: the side of the pictures in
    pixels, by default that of the checkpoint. `pretrained: false` gives random weights to the model whose name stands in
    ``weights``.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    pretrained: Literal[False] | None = None
    image_size: pydantic.PositiveInt | None = None
