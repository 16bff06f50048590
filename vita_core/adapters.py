"""LoRA adapters (arXiv 2106.09685) as peft writes them: merged into a model, or kept beside the weights of a module."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.errors import CheckpointError, VitaError
from vita_core.loading import LoadReport, check_values, read_tensors
from vita_core.untrusted.adapters import AdapterConfig
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.patterns import is_quick
from vita_core.untrusted.schemas import checked
from vita_core.weights.files import write_text, write_whole
from vita_core.weights.shards import choose_file

__all__ = [
    "adapter_state",
    "add_adapter",
    "load_adapter",
    "merge_adapter",
    "merged",
    "plain_state",
    "save_adapter",
    "set_dropout",
]

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."
"""peft wraps a model twice, and the keys of its files say so."""


def merge_adapter(model: Any, directory: Path) -> Any:
    """Merge the LoRA adapter in `directory` into the weights of `model`, a transformers model, and return a plain model.

    The checkpoint files that `model` is mapped from do not change. Raises CheckpointError if the adapter is not a LoRA
    adapter, or if one of its tensors is missing, unexpected or of another shape. Raises VitaError if peft is not installed.
    """
    peft, where = _peft(f"LoRA adapter {directory}"), f"LoRA adapter {directory}"
    state = _stored(directory)
    wrapped = _fitted(directory, state, lambda config: peft.get_peft_model(model, config))
    wanted = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    _compare(wanted, state, where)
    peft.set_peft_model_state_dict(wrapped, state)
    return wrapped.merge_and_unload(safe_merge=True)


def load_adapter(root: nn.Module, directory: Path) -> None:
    """Put the LoRA adapter in `directory` beside the weights of a module, strictly and frozen. Raises as `merge_adapter`.

    Its part of the output is computed apart, as in its training, so that the values are those of the training to the bit.
    """
    peft, state = _peft(f"LoRA adapter {directory}"), _stored(directory)
    _fitted(directory, state, lambda config: peft.inject_adapter_in_model(config, root))
    wanted = adapter_state(root)
    _compare(wanted, state, f"LoRA adapter {directory}")
    for key, parameter in wanted.items():
        parameter.data = parameter.data.float()  # as `add_adapter` makes it
        parameter.data.copy_(state[key])
        parameter.requires_grad_(False)
    root.eval()


def add_adapter(root: nn.Module, names: Sequence[str], *, rank: int, alpha: float, dropout: float) -> None:
    """Put a new LoRA adapter in float32 on the linear layers of these names in a module. Only it requires gradients."""
    peft = _peft("LoRA")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=_exactly(names))
    root.requires_grad_(False)
    with warnings.catch_warnings():  # peft uses a deprecated name of a transformers property
        warnings.simplefilter("ignore", FutureWarning)
        peft.inject_adapter_in_model(config, root)
    for parameter in adapter_state(root).values():
        parameter.data = parameter.data.float()  # peft takes the dtype of the layer, in which small steps are lost


def set_dropout(root: nn.Module, dropout: float) -> None:
    """Change the dropout of the adapter in a module."""
    for module in root.modules():
        if isinstance(found := getattr(module, "lora_dropout", None), nn.ModuleDict):
            found["default"] = nn.Dropout(dropout) if dropout else nn.Identity()
    for config in vars(root).get("peft_config", {}).values():
        config.lora_dropout = dropout


def adapter_state(root: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the adapter in a module under the keys of peft's files. Empty without an adapter."""
    own = {name: parameter for name, parameter in root.named_parameters() if ".lora_" in name}
    return {f"{PREFIX}{name.replace('.default.', '.')}": parameter for name, parameter in own.items()}


def plain_state(root: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module without its adapter, under the keys that it has without one."""
    state = root.state_dict()
    return {key.replace(".base_layer.", "."): value for key, value in state.items() if ".lora_" not in key}


@contextlib.contextmanager
def merged(*roots: nn.Module | None) -> Iterator[None]:
    """Have plain layers in place of those with an adapter while the block runs, with the adapter added to their weights.

    Afterwards all is as before, to the bit.
    """
    replaced: list[tuple[nn.Module, str, Any, Tensor]] = []
    for root in filter(None, roots):
        for name, module in root.named_modules():
            layer: Any = module
            if hasattr(layer, "base_layer"):
                parent, _, child = name.rpartition(".")
                replaced.append((root.get_submodule(parent), child, layer, layer.base_layer.weight.data))
    try:
        for owner, child, layer, _ in replaced:
            layer.merge(safe_merge=True)
            setattr(owner, child, layer.base_layer)
        yield
    finally:
        for owner, child, layer, weight in replaced:
            layer.base_layer.weight.data = weight
            layer.merged_adapters.clear()
            setattr(owner, child, layer)


def save_adapter(root: nn.Module, directory: Path) -> None:
    """Write the adapter in a module as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``."""
    tensors = {key: parameter.detach().to("cpu").contiguous() for key, parameter in adapter_state(root).items()}
    config = {**next(iter(vars(root)["peft_config"].values())).to_dict(), "inference_mode": True}
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / WEIGHTS[0], lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    write_text(directory / "adapter_config.json", json.dumps(plain, indent=2, sort_keys=True, default=str))


def _exactly(names: Iterable[str]) -> str:
    """Return peft's pattern for layers of these names. A list of names would match the ends of others."""
    return f"({'|'.join(map(re.escape, names))})"


def _peft(what: str) -> Any:
    try:
        import peft
    except ImportError as error:
        raise VitaError(
            f"{what}: it needs peft, which cannot be imported: {error}. Try: `pip install 'vita-core[lora]'`"
        ) from error
    return peft


def _stored(directory: Path) -> dict[str, Tensor]:
    names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    file = directory / choose_file(names, WEIGHTS, str(directory))
    state = {key: read() for key, read in read_tensors([file])}
    for key, tensor in state.items():
        check_values(tensor, key, f"LoRA adapter {directory}", floats=True)
    return state


def _fitted(directory: Path, state: Mapping[str, Tensor], put: Any) -> Any:
    """Call `put` with the adapter's config. Raises CheckpointError if it is no LoRA adapter, or does not fit its model."""
    from peft import LoraConfig, PeftConfig

    file = directory / "adapter_config.json"
    stated = checked(AdapterConfig, read_object(file), str(file))
    stated.check_patterns(str(file))
    most = max(
        (len(tensor) for key, tensor in state.items() if "lora_" in key and "_A" in key and tensor.ndim), default=0
    )
    if (
        rank := max([stated.r, *stated.rank_pattern.values()])
    ) > most:  # peft makes matrices of this rank before it reads any
        raise CheckpointError(
            f"{file}: r: {rank:,} is more than its tensors have: {most}. Try: the "
            "adapter_config.json that was saved with them"
        )
    try:
        # a name like owner/name is no hub id
        config = PeftConfig.from_pretrained(str(directory), local_files_only=True)
        if not isinstance(config, LoraConfig):
            raise CheckpointError(
                f"{directory}: peft_type {config.peft_type.value!r} is not supported, only 'LORA'. "
                "Try: merge the adapter into its model with peft and save the result"
            )
        if isinstance(stated.target_modules, str) and not is_quick(stated.target_modules):
            # it could take for ever; the tensors say which layers they are for
            found = (key.removeprefix(PREFIX).partition(".lora_") for key in state)
            config.target_modules = _exactly(sorted({name for name, lora, _ in found if lora}))
        config.init_lora_weights = False  # some initialisations (PiSSA, LoftQ) change the base model
        with warnings.catch_warnings():  # peft uses a deprecated name of a transformers property
            warnings.simplefilter("ignore", FutureWarning)
            return put(config)
    except (VitaError, MemoryError):
        raise
    except Exception as error:  # peft raises any of them, such as that of a regular expression
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"LoRA adapter {directory} does not fit this model: {reason}. "
            "Try: the base model that the adapter's adapter_config.json names"
        ) from error


def _compare(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    report = LoadReport(loaded=len(wanted.keys() & state.keys()))
    report.missing = sorted(wanted.keys() - state.keys())
    report.unexpected = sorted(state.keys() - wanted.keys())
    report.mismatched = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    report.raise_if_wrong(where)
    for key, tensor in state.items():
        check_values(tensor, key, where, floats=True)
