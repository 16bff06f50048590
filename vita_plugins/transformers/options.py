"""The ``tower.options`` of the transformers tower."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of a transformers tower.

    `merger`: whether the features are the output of the model's own merger, which the language model of a model such as
    Qwen2-VL gets, and not the tokens before it.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    merger: bool = False
