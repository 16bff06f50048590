"""The ``tower.options`` of torchvision towers."""

from __future__ import annotations

import pydantic


class Options(pydantic.BaseModel):
    """The options of a torchvision tower.

    `architecture`: torchvision's name of the model, for weights without a config.json. `class_scores`: if true,
    there is one more layer after the last one. It applies the classifier at every place of the map, so that a token holds
    the features of the last map followed by the scores of the classes at this place (class activation maps, arXiv
    1512.04150).
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    architecture: str | None = None
    class_scores: bool = False
