"""``tower.options`` of torchvision towers."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """`architecture`: torchvision's name, for weights without a config.json. `image_size`: pixels, default 224.

    `class_scores` adds one more layer behind the last: the classifier applied at every place of the map, so that a
    token holds the last map's features and behind them the scores of the classes seen there (class activation maps, arXiv
    1512.04150).
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    image_size: pydantic.PositiveInt | None = None
    class_scores: bool = False
