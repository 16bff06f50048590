"""The ``tower.options`` of open_clip towers."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of an open_clip tower.

    `model`: open_clip's name of the model, for weights without an ``open_clip_config.json``.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    model: str | None = None
