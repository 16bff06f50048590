"""Merge a LoRA adapter (arXiv 2106.09685) into its language model with peft, strictly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError, VitaError
from vita_core.loading import LoadReport, read_tensors
from vita_core.weights.shards import choose_file

__all__ = ["merge_adapter"]

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def merge_adapter(model: Any, directory: Path) -> Any:
    """Merge the LoRA adapter in `directory` into the weights of `model`, a transformers model, and return a plain model.

    The checkpoint files that `model` is mapped from do not change. Raises CheckpointError if the adapter is not a LoRA
    adapter, or if one of its tensors is missing, unexpected or of another shape. Raises VitaError if peft is not installed.
    """
    try:
        from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise VitaError(
            f"a LoRA adapter needs peft, which cannot be imported: {error}. Try: `pip install 'vita-core[lora]'`"
        ) from error
    where = f"LoRA adapter {directory}"
    state = {
        key: read() for key, read in read_tensors([directory / choose_file(_names(directory), WEIGHTS, str(directory))])
    }
    try:
        config = PeftConfig.from_pretrained(str(directory))
        if not isinstance(config, LoraConfig):
            raise CheckpointError(
                f"{directory}: peft_type {config.peft_type.value!r} is not supported, only 'LORA'. "
                "Try: merge the adapter into its model with peft and save the result"
            )
        config.init_lora_weights = False  # some initialisations (PiSSA, LoftQ) change the base model
        with warnings.catch_warnings():  # peft uses a deprecated name of a transformers property
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(model, config)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, VitaError):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"{where} does not fit this language model: {reason}. "
            "Try: the base model that the adapter's adapter_config.json names"
        ) from error
    wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    report = LoadReport(loaded=len(wanted.keys() & state.keys()))
    report.missing = sorted(wanted.keys() - state.keys())
    report.unexpected = sorted(state.keys() - wanted.keys())
    report.mismatched = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    report.raise_if_wrong(where)
    set_peft_model_state_dict(wrapped, state)
    return wrapped.merge_and_unload(safe_merge=True)


def _names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]
