"""The known layouts, and how to recognise the layout of a config. No torch."""

from __future__ import annotations

from pathlib import Path

from vita_core.errors import CheckpointError, contents, nearest
from vita_core.layouts import internvl, internvl_hf, llava, llava_hf, onevision_hf, pixtral_hf, vipllava_hf, vita
from vita_core.layouts.layout import Layout, OldConfig
from vita_core.untrusted.sizes import read_config as untrusted_config

__all__ = ["LAYOUTS", "is_adapter", "read_config", "recognise"]

LAYOUTS = (
    vita.LAYOUT,
    llava.LAYOUT,
    pixtral_hf.LAYOUT,
    llava_hf.LAYOUT,
    onevision_hf.LAYOUT,
    vipllava_hf.LAYOUT,
    internvl_hf.LAYOUT,
    internvl.LAYOUT,
)


def recognise(config: OldConfig, where: str) -> Layout:
    """Return the layout of a checkpoint with this ``config.json``.

    Raises CheckpointError for an unknown model_type. The message says if the checkpoint needs its own code to be run.
    """
    for layout in LAYOUTS:
        if layout.recognises(config):
            return layout
    kind = config.get("model_type")
    known = list(dict.fromkeys(name for layout in LAYOUTS for name in layout.model_types))
    wrong = f"{where}: unknown model_type in its config.json: {kind!r}.{nearest(str(kind), known)}"
    if "auto_map" in config:
        raise CheckpointError(
            f"{wrong} Known are {', '.join(known)}. It needs its own code (auto_map), which is not run here. Try: allow the "
            "code of a language model in a YAML config, with `llm: {weights: DIR, trust_remote_code: true, revision: COMMIT}` "
            "and the COMMIT whose code you have read"
        )
    raise CheckpointError(f"{wrong} Try: a checkpoint with one of {', '.join(known)}")


def is_adapter(directory: Path) -> bool:
    """Return whether the directory holds a LoRA adapter instead of a whole model."""
    return (directory / "adapter_config.json").is_file()


def read_config(directory: str | Path) -> OldConfig:
    """Read the ``config.json`` in a checkpoint's directory. Raises CheckpointError if there is none."""
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory. Try: the directory of a checkpoint")
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json: it holds {contents(path)}. Try: the directory of a checkpoint with its config.json"
        )
    return untrusted_config(path / "config.json")
