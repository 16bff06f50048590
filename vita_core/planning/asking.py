"""Call the functions of a tower's spec with a checkpoint's config, and say whose fault an error is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vita_core.errors import CheckpointError, PluginError, VitaError, dotted
from vita_core.plugins.discovery import describe
from vita_core.plugins.installed import Owner
from vita_core.plugins.libraries import failed_library, library_advice
from vita_core.plugins.registry import import_object
from vita_core.plugins.specs import Shape, TowerSpec
from vita_core.untrusted.sizes import LargeTableError, large_table
from vita_core.weights.sources import Source
from vita_core.weights.stated import place

__all__ = ["asked", "shape_of", "takes"]


def shape_of(
    spec: TowerSpec,
    owner: Owner,
    source: Source,
    options: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> Shape:
    """Return the shape of a spec for a checkpoint. With `size`, for pictures of that (height, width) (native resolution).

    With `image_size`, for pictures of another (height, width) than the checkpoint's. With `frames`, for videos of so many
    frames if the encoder takes any number.

    Raises PluginError if the spec's function does not return a `Shape`, or of pictures of another size.
    """
    assert spec.shape is not None  # else the shape is measured
    shape = asked(spec.shape, spec, owner, source, options, size=size, image_size=image_size, frames=frames)
    if not isinstance(shape, Shape):
        raise PluginError(
            f"plugin {owner.plugin} of {owner}: the shape of its tower {spec.name!r} is {shape!r}, not a Shape. "
            "Try: return a vita_core.Shape from the shape function, or report this to the author of the plugin"
        )
    expected = size or (shape.native and shape.native.square)
    if expected and (shape.native is None or shape.image_size != expected):
        raise PluginError(
            f"plugin {owner.plugin} of {owner}: the shape of its tower {spec.name!r} is that of pictures of "
            f"{shape.image_size} pixels, not {expected}. Try: give the shape function of a tower of native resolution a "
            "parameter `size`, or report this to the author of the plugin"
        )
    return shape


def takes(function: Any, spec: TowerSpec, owner: Owner, name: str) -> bool:
    """Return whether a field of a spec is a function, or the name of one, with a parameter of that name."""
    called = import_object(function, requires=spec.requires, owner=owner) if isinstance(function, str) else function
    return callable(called) and name in inspect.signature(called).parameters


def asked(
    function: Callable[..., Any] | str, spec: TowerSpec, owner: Owner, source: Source, *more: Any, **optional: Any
) -> Any:
    """Call a function of a spec with a checkpoint's config, and with those of the `optional` values that it has parameters for.

    One of them is `preprocessor`, the checkpoint's preprocessor config.

    Raises CheckpointError if the function cannot read the config.
    """
    called: Callable[..., Any] = (
        import_object(function, requires=spec.requires, owner=owner) if isinstance(function, str) else function
    )
    try:
        known = inspect.signature(called).parameters
        named = {key: value for key, value in {"preprocessor": source.preprocessor, **optional}.items() if key in known}
        return called(source.config, *more, **named)
    except VitaError:
        raise
    except LargeTableError as error:
        size = {key: value for key, value in optional.items() if key == "image_size" and value is not None}
        raise large_table(error, {**source.config, **size}, place(source, spec.config_file)) from error
    except Exception as error:  # any error of the plugin's code, for example because the patch size is 0
        library = failed_library(error, (spec.factory, getattr(called, "__module__", None) or ""))
        raise CheckpointError(_unopened(error, library, spec, owner, source)) from error


def _unopened(error: Exception, library: str | None, spec: TowerSpec, owner: Owner, source: Source) -> str:
    """Return the message for a checkpoint whose config made a function of a spec fail, in `library` or in its own code."""
    tower = f"{source.weights}: tower {spec.name!r}"
    if library is not None:
        return (
            f"{tower} cannot open it, because {library} failed: {describe(error).rstrip('.')}. "
            f"Try: {library_advice(library, owner)}"
        )
    if isinstance(error, KeyError):
        return (
            f"{tower} needs {error} in the checkpoint's config.json, but {_keys(source)}. Try: copy the config.json that it "
            "was published with into its directory"
        )
    return (
        f"{tower} cannot read its config.json: {describe(error)}. Try: correct the file, or report this to the author of "
        f"{owner} if the file is as published"
    )


def _keys(source: Source) -> str:
    """Return which keys the config of a checkpoint has, for an error message."""
    names = ", ".join(dotted([key]) for key in source.config)
    return f"it has only {names}" if names else "it is empty or does not exist"
