"""What is special about single families of timm, as data. The keys are the names of timm's classes."""

from __future__ import annotations

HEADS = ("head", "fc", "classifier", "fc_norm", "attn_pool")
"""The modules of timm's heads, of any class."""

FIRST_MODULES = {"MultiScaleVit": "stages.0", "Twins": "blocks.0"}
"""The module of the first layer, where timm's ``feature_info`` names a module that does not exist."""

UNPRUNED = {
    "CrossVit": "lists the layers of one branch after those of the other, so that a later one can need fewer blocks",
    "EfficientViM": "one parameter holds a weight for each layer, and timm makes it shorter",
    "EfficientViMDistilled": "as EfficientViM",
}
"""Classes of which all layers are built and loaded, and the reason."""

GRID_FROM_VALUES = {"Gemma4VitClassifier", "Gemma4VitEncoder"}
"""Classes that find the grid in values of their positions, which the meta device does not have."""

STAGES_ALONE = ("timm_backbone", "edgetam_vision_model", "edgetam", "edgetam_video")
"""Model types of transformers whose checkpoints have timm's keys as a model of stages alone writes them."""
