"""Convert the config of a VITA or LLaVA checkpoint to our YAML, and report what each of its keys became."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from vita_core.config.schema import Config
from vita_core.errors import CheckpointError
from vita_core.layouts.finding import find_tower
from vita_core.layouts.known import is_adapter, read_config, recognise
from vita_core.layouts.layout import OldConfig
from vita_core.layouts.sections import tower_name
from vita_core.planning.checkpoints import checkpoint_config
from vita_core.planning.towers import resolve_tower
from vita_core.weights.sources import locate

__all__ = ["Migration", "migrate", "path_accident"]

# the old builder searches the lower-cased path for these words, in this order, and builds the tower beside the first
OLD_BUILDER = (("sig", "siglip"), ("eva", "eva_clip"), ("clip", "clip"), ("internvit", "internvit"))
# old key -> our key; the report shows its value
BECAME = {
    "mm_vision_tower": "tower.weights",
    "vision_tower": "tower.weights",
    "mm_vision_select_layer": "tower.select_layer",
    "mm_vision_select_feature": "tower.select_feature",
    "vision_feature_layer": "tower.select_layer",
    "vision_feature_select_strategy": "tower.select_feature",
    "use_s2": "tower.s2",
    "s2": "tower.s2",
    "s2_scales": "tower.s2.scales",
    "unfreeze_mm_vision_tower": "tower.freeze",
    "unfreeze_vision_tower": "tower.freeze",
    "delay_load": "tower.delay_load",
    "mm_projector_type": "projector.type",
    "torch_dtype": "llm.dtype",
    "dtype": "llm.dtype",
    "image_aspect_ratio": "images.aspect",
    "image_grid_pinpoints": "images.anyres.grids",
    "mm_patch_merge_type": "images.anyres.merge",
    "model_type": "prompt.template",
    "vision_aspect_ratio": "images.anyres.shrink_to",
    "vision_feature_layers": "tower.select_layer",
    "select_layer": "tower.select_layer",
    "downsample_ratio": "tower.pixel_shuffle",
    "projector_layernorm_eps": "projector.options.norm_eps",
    "min_dynamic_patch": "images.tiles.min",
    "max_dynamic_patch": "images.tiles.max",
    "use_thumbnail": "images.tiles.thumbnail",
    "template": "prompt.template",
    "image_token_index": "prompt.image_token",
    "image_token_id": "prompt.image_token",
}
# expression on an old key -> why our config has no such key; the first expression that matches counts
IGNORED = (
    (r"audio", "audio is not supported"),
    (
        r"^(tune_|freeze_|unfreeze_|pretrain_)|_lr$|continuous_training",
        "a setting of the original training; here it is the config's section 'training'",
    ),
    (r"^mm_hidden_size$", "known from the tower; the two are compared when the checkpoint is opened"),
    (r"^(use_mm_proj|mm_use_)", "always the case here"),
    (r"^tokenizer_", "read from the checkpoint by model.prepare_inputs_labels_for_multimodal"),
    (r"^(architectures|auto_map|transformers_version|_name_or_path|use_cache)$", "only used by the original code"),
    (r"^mm_", "unknown key, not read"),
    (r"", "a key of the language model or the tower, read from the checkpoint"),
)


@dataclass(frozen=True)
class Migration:
    """A converted config: the YAML text, and a row for each key of the old config.

    The rows are (old key, old value, new key and value) in `became`, and (old key, old value, reason) in `ignored`.
    `accident` says which other tower the old builder would have built for the tower's path, or is None.
    """

    text: str
    became: list[tuple[str, Any, str]]
    ignored: list[tuple[str, Any, str]]
    accident: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``vita migrate --json`` prints it."""
        return asdict(self)


def migrate(directory: str | Path, *, tower_weights: str | None = None, overrides: Sequence[str] = ()) -> Migration:
    """Convert the config of the VITA or LLaVA checkpoint in `directory`.

    Raises VitaError if the layout is unknown or the tower is not found.
    """
    old = read_config(directory)
    own = locate(str(Path(directory).expanduser().absolute()))
    if own.path is not None and is_adapter(own.path):
        raise CheckpointError(
            f"{directory} contains a LoRA adapter, which a config cannot describe. Try: merge and save it with "
            "build_model(checkpoint=..., model_base=...).save(DIR)"
        )
    layout = recognise(old, str(directory))
    tower = find_tower(layout, own, tower_weights, whole=True)
    family = resolve_tower({"weights": tower.source.weights}, source=tower.source).spec.name
    config = checkpoint_config(layout, own, tower, [f"tower.type={family}", *overrides])
    lines = [f"# from {own.weights}/config.json ({layout.name}); the tower's config: {tower.how}"]
    sections = config.model_dump(exclude_unset=True)
    text = "\n".join(lines) + "\n" + yaml.safe_dump(sections, sort_keys=False, width=1000)
    became, ignored = _report(old, config)
    name = tower_name(old)
    return Migration(text, became, ignored, None if name is None else path_accident(name, family))


def path_accident(name: str, family: str) -> str | None:
    """Say which tower the old builder, which searches the path for words, builds instead of `family`; None if the same."""
    piece, built = next(((p, b) for p, b in OLD_BUILDER if p in name.lower()), (None, None))
    if built == family:
        return None
    if piece is None:
        words = ", ".join(word for word, _ in OLD_BUILDER)
        return f"the old builder would have refused {name!r}: this path contains none of {words}"
    return f"the old builder would have built {built!r} for {name!r}, because that path contains {piece!r}"


def _report(old: OldConfig, config: Config) -> tuple[list[tuple[str, Any, str]], list[tuple[str, Any, str]]]:
    became, ignored = [], []
    for key, value in old.items():
        ours = _value(config, BECAME[key]) if key in BECAME else None
        if ours is not None:
            became.append((key, value, f"{BECAME[key]}: {ours}"))
        else:
            reasons = (
                ["same as the default"] if key in BECAME else [why for rule, why in IGNORED if re.search(rule, key)]
            )
            ignored.append((key, value, reasons[0]))
    return became, ignored


def _value(config: Config, path: str) -> Any:
    found: Any = config.model_dump(exclude_unset=True)
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
