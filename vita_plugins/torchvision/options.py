"""``tower.options`` of torchvision towers."""

from __future__ import annotations

from typing import Literal

import pydantic


class Options(pydantic.BaseModel):
    """`architecture`: torchvision's name, for weights without a config.json. `image_size`: pixels, default 224.

    `class_scores` adds one more layer behind the last: the classifier applied at every place of the map, so that a
    token holds the scores of the classes seen there (class activation maps, arXiv 1512.04150). With ``beside`` that layer
    holds the last map's features, too, before the scores.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    image_size: pydantic.PositiveInt | None = None
    class_scores: bool | Literal["beside"] = False
