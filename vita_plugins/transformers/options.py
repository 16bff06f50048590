"""The ``tower.options`` of the transformers tower."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of a transformers tower.

    `image_size`: the side of the pictures in pixels, for a checkpoint whose configs do not state it.
    `merger`: whether the features are the output of the model's own merger, which the language model of a model such as
    Qwen2-VL gets, and not the tokens before it.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    image_size: pydantic.PositiveInt | None = None
    merger: bool = False
