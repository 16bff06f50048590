"""The ``tower.options`` of timm towers."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic


class Options(pydantic.BaseModel):
    """The options of a timm tower.

    `architecture`: timm's name of the model, for weights without a config.json. `image_size`: for weights without a
    config.json, the side of the pictures that they were trained with, if it is not timm's (`tower.image_size` asks for another
    size than the checkpoint's). `pretrained: false` gives random weights to the model whose name stands in
    ``weights``. `class_scores`: if true, an EfficientNet (also MobileNetV2) has one more layer after the last one. Its tokens
    hold the features of the last map followed by the scores of the classes at this place (class activation maps, arXiv
    1512.04150). `crop_pct` and `crop_mode` (``center``, ``squash`` or ``border``) are used instead of the checkpoint's, as
    by timm's ``validate.py``: with a `crop_pct` of 1 nothing but what exceeds the square is cut away from a picture.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    pretrained: Literal[False] | None = None
    image_size: pydantic.PositiveInt | None = None
    class_scores: bool = False
    crop_pct: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
