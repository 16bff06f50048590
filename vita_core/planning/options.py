"""Validate the options of a tower, a projector or a reduction with the pydantic model that the plugin's spec names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core.config.validation import validate
from vita_core.errors import ConfigError
from vita_core.plugins.installed import Owner
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.registry import KINDS, import_object
from vita_core.plugins.specs import ProjectorSpec, TowerSpec

__all__ = ["validated_options"]


def validated_options(
    section: str, spec: TowerSpec | ProjectorSpec | ReductionSpec, owner: Owner, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the validated options of a `section`, with their defaults: ``tower.options``, or ``tower.reduce[0]``.

    Raises ConfigError for options that are not valid, and PluginError if the pydantic model cannot be imported.
    """
    if spec.options is not None:
        model = import_object(spec.options, requires=spec.requires, owner=owner)
        return validate(model, options, section=section).model_dump()  # type: ignore[no-any-return]  # imported by name
    if options:
        raise ConfigError(
            f"{section}: {KINDS[type(spec)]} {spec.name!r} takes no options: {', '.join(sorted(options))}. "
            f"Try: leave {'them' if isinstance(spec, ReductionSpec) else section} out"
        )
    return {}
