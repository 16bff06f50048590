"""Vision encoders of multimodal language models as plugins: one protocol, one registry, one YAML file.

This package exports every public name. Each is imported on first use, so that ``import vita_core`` is fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes longer than all else before `vita` takes signals
if TYPE_CHECKING:
    from typing import Any

    __version__: str
    from vita_core.config.schema import load_config as load_config
    from vita_core.errors import PictureError as PictureError
    from vita_core.errors import VitaError as VitaError
    from vita_core.language.llm import LanguageModel as LanguageModel
    from vita_core.loading import without_weights as without_weights
    from vita_core.models.building import build_model as build_model
    from vita_core.pixels.processors import image_processor as image_processor
    from vita_core.planning.pictures import height_width as height_width
    from vita_core.planning.pictures import prepared_size as prepared_size
    from vita_core.planning.plan import make_plan as make_plan
    from vita_core.planning.towers import ResolvedTower as ResolvedTower
    from vita_core.plugins.hookspecs import hookimpl as hookimpl
    from vita_core.plugins.reductions import ReductionSpec as ReductionSpec
    from vita_core.plugins.registry import list_towers as list_towers
    from vita_core.plugins.registry import register as register
    from vita_core.plugins.specs import LLMShape as LLMShape
    from vita_core.plugins.specs import LLMSpec as LLMSpec
    from vita_core.plugins.specs import NativeSize as NativeSize
    from vita_core.plugins.specs import ProjectorSpec as ProjectorSpec
    from vita_core.plugins.specs import Shape as Shape
    from vita_core.plugins.specs import Stated as Stated
    from vita_core.plugins.specs import TowerSpec as TowerSpec
    from vita_core.protocol import VisionTower as VisionTower
    from vita_core.towers.measuring import count_macs as count_macs
    from vita_core.towers.measuring import measure as measure
    from vita_core.towers.measuring import parameter_count as parameter_count
    from vita_core.towers.reductions.blocks import BlockParts as BlockParts
    from vita_core.towers.tapping import NoBlock as NoBlock
    from vita_core.towers.tapping import hidden_states as hidden_states
    from vita_core.towers.tower import BaseVisionTower as BaseVisionTower
    from vita_core.towers.tower import build_tower as build_tower

_HOME = {
    "BaseVisionTower": "towers.tower",
    "BlockParts": "towers.reductions.blocks",
    "LLMShape": "plugins.specs",
    "LLMSpec": "plugins.specs",
    "LanguageModel": "language.llm",
    "NativeSize": "plugins.specs",
    "NoBlock": "towers.tapping",
    "PictureError": "errors",
    "ProjectorSpec": "plugins.specs",
    "ReductionSpec": "plugins.reductions",
    "ResolvedTower": "planning.towers",
    "Shape": "plugins.specs",
    "Stated": "plugins.specs",
    "TowerSpec": "plugins.specs",
    "VisionTower": "protocol",
    "VitaError": "errors",
    "build_model": "models.building",
    "build_tower": "towers.tower",
    "count_macs": "towers.measuring",
    "height_width": "planning.pictures",
    "hidden_states": "towers.tapping",
    "hookimpl": "plugins.hookspecs",
    "image_processor": "pixels.processors",
    "list_towers": "plugins.registry",
    "load_config": "config.schema",
    "make_plan": "planning.plan",
    "measure": "towers.measuring",
    "parameter_count": "towers.measuring",
    "prepared_size": "planning.pictures",
    "register": "plugins.registry",
    "without_weights": "loading",
}
__all__ = [*_HOME]  # noqa: PLE0604  # one table, not two


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # imported here because it is slow to import

        return version("vita-core")
    if name not in _HOME:
        raise AttributeError(f"module 'vita_core' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"vita_core.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
