"""Score a model by the field's benchmarks: the model `vita` of lmms-eval.

In: the requests of lmms-eval's tasks. Out: answers, and losses of given answers. Only `manifest` and `model` need lmms-eval.
"""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """Return the `ModelManifest` of ``lmms-eval eval --model vita``. lmms-eval calls this when it lists its models.

    The name is VITA's: lmms-eval has a model `vita` of its own, which runs VITA's code, and which this one replaces.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vita", simple_class_path="vita_core.benchmarking.model.VitaModel")
