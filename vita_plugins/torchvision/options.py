"""The ``tower.options`` of torchvision towers, and the ``projector.options`` of ``visual_vocabulary``."""

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


class ProjectorOptions(pydantic.BaseModel):
    """The options of ``visual_vocabulary``.

    `classes`: how many of the last channels are class scores. Each class is a word of the vocabulary. `words`: how many
    more words there are, for captions that name no class. `dropout`: the dropout of the features in training. `softening`:
    in training on the language model's loss, the temperature of the probabilities is raised at random from 1 up to
    1 + `softening`. The projector is less certain about new pictures, so the language model's loss must see mixtures of
    words too. `names_of`: the torchvision weights whose class names the training starts from.

    `restraint`: how strongly the training on words keeps to the tower's own class scores. It is the weight of the squared
    weights of the classes' corrections; with any, the scale of the scores stays as it is. Scores that were learned on millions of
    pictures are right about pictures of another kind than those of the training. `sharpness`: outside of training, the logits
    are multiplied by it, so that the language model reads fewer words at a time.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    classes: pydantic.PositiveInt = 1000
    words: pydantic.NonNegativeInt = 128
    dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    softening: float = pydantic.Field(1.5, ge=0, allow_inf_nan=False)
    names_of: str | None = None
    restraint: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
    sharpness: float = pydantic.Field(1.0, gt=0, allow_inf_nan=False)
