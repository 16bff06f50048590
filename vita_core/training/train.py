"""Train a projector: cache the features, warm start, align, and write a directory that ``vita run`` opens."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from vita_core.config.schema import Config, TrainingConfig
from vita_core.errors import ConfigError
from vita_core.language.tokenizing import tokenized
from vita_core.models.building import build
from vita_core.models.model import VisionLanguageModel
from vita_core.models.saving_towers import reduction_file
from vita_core.planning.reduction_weights import before_learning
from vita_core.planning.resolution import Place, Resolved, resolve
from vita_core.planning.videos import refuse_stills
from vita_core.protocol import WordProjector
from vita_core.training.align import CachedSamples, Rows, run_alignment
from vita_core.training.connector import Connector, connect, described
from vita_core.training.data import Sample, read_samples
from vita_core.training.feature_cache import FeatureCache
from vita_core.training.processes import tell
from vita_core.training.record import Run
from vita_core.training.reporters import check_reporters
from vita_core.training.results import HELD_OUT, sources_of, write_results
from vita_core.training.resumable import write_tensors
from vita_core.training.warm_start import CaptionWords, run_warm_start
from vita_core.weights.files import write_text

__all__ = ["train"]

WRITTEN = ("projector.safetensors", "config.yaml", "provenance.json", HELD_OUT)
"""The files of a finished run, besides those of reductions."""


def train(
    config: Place | Resolved,
    data: Sequence[Path],
    out: Path,
    licences: Sequence[str] = (),
    features: Path | None = None,
) -> dict[str, Any]:
    """Train a projector, and the reductions that learn, on captioned pictures, and write the directory `out`.

    Its files are projector.safetensors, reduce-0.safetensors and so on, config.yaml and provenance.json.
    Call it again with the same arguments to continue an interrupted run: features and checkpoints are in ``out/work``.
    `licences` are texts for the provenance, one for each of `data`. `features` is a directory for the features that runs
    with other seeds share: their altered copies are then those of seed 0. Returns the scores. Raises VitaError.
    """
    resolved = config if isinstance(config, Resolved) else resolve(config)
    _check(resolved)
    check_reporters(resolved.config.training.report_to)
    config = resolved.config
    sets = [read_samples(path) for path in data]
    samples = [sample for group in sets for sample in group]
    groups = [number for number, group in enumerate(sets) for _ in group]
    settings = config.training
    kept, held = _split(len(samples), settings)
    front, steps = before_learning(resolved.tower)
    names = [*WRITTEN, *(reduction_file(step) for step in steps if step.spec.trainable)]
    run = Run(out, config, json.dumps([[str(s.image), s.caption] for s in samples]))
    if (finished := run.finished(names)) is not None:
        return finished
    with run.alone():
        torch.manual_seed(settings.seed)
        vlm = build(replace(resolved, tower=front))
        trained = connect(steps, vlm)
        _check_words(vlm)
        answers = [_answer_ids(vlm, sample.caption) for sample in samples]
        captions = CaptionWords(vlm, [samples[i].caption for i in kept], [answers[i] for i in kept])
        captions.tell_projector()  # raises an error for unusable captions, before the pictures are encoded
        cache = _cached(features or out / "work", config, vlm, samples, None if features is None else 0)
        rows = Rows(kept, [groups[i] for i in kept])
        held_out = CachedSamples(cache, Rows(held, [groups[i] for i in held]), answers) if held else None
        trained.requires_grad_(True)
        warming = CachedSamples(cache, rows, answers, settings.warm_start_steps * settings.warm_start_batch)
        _warm_start(vlm, trained, warming, captions, out)
        _keep_words(vlm.projector)
        tell(f"training: {described(trained)}")
        training = CachedSamples(cache, rows, answers, settings.steps * settings.batch_size)
        scores = run_alignment(vlm, trained, training, held_out, out) | {"samples": len(kept), "held_out": len(held)}
        write_text(out / HELD_OUT, "".join(_row(samples[i]) for i in held))
        write_results(resolved, vlm, trained, out, scores, sources_of(resolved, data, sets, licences))
        run.finish(scores)
    return scores


def _keep_words(projector: nn.Module) -> None:
    """Freeze what the warm start taught a `WordProjector`."""
    if isinstance(projector, WordProjector):
        projector.requires_grad_(False)
        for parameter in projector.alignment_parameters():
            parameter.requires_grad_(True)


def _cached(
    folder: Path, config: Config, vlm: VisionLanguageModel, samples: Sequence[Sample], seed: int | None
) -> FeatureCache:
    """Return the features of all pictures. They do not depend on reductions that are trained."""
    tower = config.tower.model_copy(update={"reduce": vlm.tower.settings.reduce})
    cache = FeatureCache(folder, config.model_copy(update={"tower": tower}), vlm.tower, samples, seed)
    cache.fill()
    return cache


def _warm_start(
    vlm: VisionLanguageModel, trained: nn.Module, training: CachedSamples, captions: CaptionWords, out: Path
) -> None:
    """Run the warm start, or load its result from an earlier, interrupted call."""
    settings, done = vlm.settings.training, out / "work" / "warm_start.safetensors"
    projector, _ = vlm.resolved.language("training")
    opened = projector.settings.weights is not None or projector.part is not None
    started = opened and not isinstance(vlm.projector, WordProjector)
    # a warm start would undo the training of a projector, unless it is a WordProjector
    if settings.warm_start_steps == 0 or started:
        return
    if not done.is_file():
        if isinstance(trained, Connector):
            trained.train_untrained()
        run_warm_start(vlm, trained, training, captions, out)
        trained.requires_grad_(True)
        write_tensors(done, trained.state_dict())
    trained.load_state_dict(load_file(done))


def _check(resolved: Resolved) -> None:
    """Raise ConfigError for a tower alone, a tower of videos, and prompts that training does not write."""
    resolved.language("vita train")
    refuse_stills(resolved.tower, "vita train: it takes still pictures")
    if resolved.config.training.stages is not None:
        raise ConfigError(
            "training.stages: train() trains without stages. Try: vita_core.training.running.run_stages(resolved, out)"
        )
    if resolved.config.prompt.row_tokens is not None:
        raise ConfigError(
            f"prompt.row_tokens: training does not write the tokens {', '.join(resolved.config.prompt.row_tokens)} between the "
            "rows of a picture. Try: `prompt.row_tokens: null`, which the trained model will keep"
        )


def _check_words(vlm: VisionLanguageModel) -> None:
    """Raise ConfigError for a projector that is trained on words, behind a tower of native resolution."""
    if vlm.tower.shape.native is not None and isinstance(vlm.projector, WordProjector):
        raise ConfigError(
            f"projector.type: {vlm.settings.projector.type!r} is trained on the captions' words, with equally many tokens of "
            f"each picture, but tower {vlm.tower.resolved.spec.name!r} keeps their aspect. Try: `projector.type: mlp2x_gelu`"
        )


def _split(count: int, settings: TrainingConfig) -> tuple[list[int], list[int]]:
    """Return the samples to train on, and those that are held out. Raises ConfigError if the best weights need some."""
    order = list(range(count))
    random.Random(settings.seed).shuffle(order)
    held = round(count * settings.held_out)
    if settings.best and not held:
        raise ConfigError(
            f"training.best: no sample is held out: {settings.held_out} of {count}. Try: a larger `training.held_out`"
        )
    return sorted(order[held:]), sorted(order[:held])


def _answer_ids(vlm: VisionLanguageModel, caption: str) -> torch.Tensor:
    ids = tokenized(vlm.llm.tokenizer, caption, add_special_tokens=False).input_ids
    return torch.tensor([*ids, vlm.llm.stop_id])


def _row(sample: Sample) -> str:
    row = {"image": str(sample.image.absolute()), "caption": sample.caption, "names": list(sample.names)}
    return json.dumps(row, ensure_ascii=False) + "\n"
