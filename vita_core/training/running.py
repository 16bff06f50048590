"""Run the stages of a training one after the other, resumably."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from vita_core.errors import ConfigError
from vita_core.models.building import build
from vita_core.models.model import VisionLanguageModel
from vita_core.planning.resolution import Resolved
from vita_core.protocol import WordProjector
from vita_core.training import processes
from vita_core.training.cache.frozen import frozen_tower
from vita_core.training.data.grouping import Grouped
from vita_core.training.data.mixing import DataSet, Drawn, Mixture, check_pictures
from vita_core.training.data.rejecting import RejectedLog
from vita_core.training.distributed import ShardedTrainer
from vita_core.training.joint import Joint, collate
from vita_core.training.making import SampleMaker
from vita_core.training.parts import check_parts, freeze_unused, prepare_parts, table
from vita_core.training.recomputing import recomputing
from vita_core.training.record import Run, stage_record
from vita_core.training.reporters import check_reporters, reporting
from vita_core.training.reporting import Progress, show_table
from vita_core.training.resumable import load_trained, write_tensors
from vita_core.training.sets import Sets, described, kept_sets, open_sets, stamp
from vita_core.training.stages import Stage, resolve_stages
from vita_core.training.trainer import StageTrainer
from vita_core.training.written import write_trained
from vita_core.training.zero3 import Zero3Trainer, load_deepspeed
from vita_core.weights.files import write_text

__all__ = ["built", "checked_stages", "prepared", "run_stages"]

KINDS: dict[str, type[StageTrainer]] = {"ddp": StageTrainer, "fsdp2": ShardedTrainer, "zero3": Zero3Trainer}
"""How several processes train, by ``training.parallel``."""
DONE = "done.safetensors"
"""The file in the directory of a finished stage with the weights that it trained."""
JUDGED = 8
"""At most so many samples say which parameters no loss depends on."""


def run_stages(resolved: Resolved, out: Path, *, strict: bool = False, only: str | None = None) -> dict[str, Any]:
    """Train the stages of a config, and write a model that ``vita run`` opens to `out`. Return the scores of each stage.

    Call it again with the same arguments to continue an interrupted run: its checkpoints are in ``out/work``. `only` is the
    name of the last stage to run; the stages before it run too, unless they are finished. With `strict`, the first sample
    that cannot be trained on is an error. Raises VitaError before the first picture is encoded if the config or the data
    cannot be trained on.
    """
    stages, sets = checked_stages(resolved, only)
    kind = KINDS[resolved.config.training.parallel] if processes.count() > 1 else StageTrainer
    run = Run(out, resolved.config, "".join(stamp(settings.path) for settings in resolved.config.data.values()))
    if (finished := run.finished(["config.yaml"], [stage.name for stage in stages])) is not None:
        return finished
    with run.alone():
        scores = _run(resolved, stages, sets, run, strict=strict, kind=kind)
    processes.wait()
    return scores


def _run(
    resolved: Resolved, stages: list[Stage], sets: Sets, run: Run, *, strict: bool, kind: type[StageTrainer]
) -> dict[str, Any]:
    """Train the stages that are not finished, and write the model. Return the scores of each stage."""
    processes.start()
    torch.manual_seed(resolved.config.training.seed)
    model, scores = built(resolved, stages), dict[str, Any]()
    log = RejectedLog(run.out / "rejected.jsonl", strict=strict)
    for number, stage in enumerate(stages, 1):
        folder = run.out / "work" / stage.name
        if (folder / DONE).is_file():
            scores[stage.name] = _reopen(model, stage, folder)
            continue
        scores[stage.name] = _run_stage(model, stage, sets, folder, log, kind)
        if kind.shared:
            del model
            model = build(resolved, untrained=True)  # with whole weights again
            for done in stages[:number]:
                _reopen(model, done, run.out / "work" / done.name)
    if processes.first():
        write_trained(run.out, model, stages, described(resolved.config.data, sets))
        run.finish(scores)
    return scores


def built(resolved: Resolved, stages: Sequence[Stage]) -> VisionLanguageModel:
    """Return the model, after every check of the stages that needs its modules. Raises ConfigError."""
    model = build(resolved, untrained=True)
    _check_words(model)
    for stage in stages:
        check_parts(model, stage.parts, stage.key)
    return model


def checked_stages(resolved: Resolved, only: str | None = None) -> tuple[list[Stage], Sets]:
    """Return the stages up to the one named `only`, and the data sets, after every check that needs no weights."""
    processes.check_devices(resolved.config)
    check_reporters(resolved.config.training.report_to)
    if resolved.config.training.parallel == "zero3" and processes.count() > 1:
        load_deepspeed(cpu=resolved.config.device == "cpu" or not torch.cuda.is_available())
    stages = _upto(resolve_stages(resolved, resolved.config.data, processes.count()), only)
    sets = open_sets(resolved.config.data, resolved.config.training.seed)
    for stage in stages:
        check_pictures([sets[name][0] for name in stage.data])
        _check_best(stage, [sets[name][1] for name in stage.data])
    return stages, sets


def _check_best(stage: Stage, held_out: Sequence[object]) -> None:
    """Raise ConfigError for a stage that ends with the best weights, but has nothing to compare them on."""
    if stage.settings.best and all(one is None for one in held_out):
        raise ConfigError(
            f"{stage.key}.best: no data set of this stage has held-out samples. Try: `held_out: 0.02` in the section of one"
        )


def _upto(stages: list[Stage], only: str | None) -> list[Stage]:
    names = [stage.name for stage in stages]
    if only is None:
        return stages
    if only not in names:
        raise ConfigError(f"--stage: no stage of this name: {only!r}. Try: one of {', '.join(names)}")
    return stages[: names.index(only) + 1]


def _run_stage(
    model: VisionLanguageModel, stage: Stage, sets: Sets, folder: Path, log: RejectedLog, kind: type[StageTrainer]
) -> dict[str, Any]:
    """Train one stage, from its last checkpoint if there is one. Return its scores."""
    seed = model.settings.training.seed
    joint, data, held_out, unused = prepared(model, stage, sets, folder.parent / "cache", log)
    rows = table(model, stage.parts)
    if processes.first():
        show_table(stage, rows, unused)
    torch.manual_seed(_seed(seed, stage.name))
    out, training, steps = folder.parent.parent, model.settings.training, len(data) // stage.settings.batch_size
    with reporting(training.report_to, out, stage.name), recomputing(joint, stage):
        trainer = kind(
            joint,
            stage,
            data,
            held_out,
            folder,
            steps=steps,
            seed=seed,
            keep=training.keep,
            progress=Progress(stage.name, out / "metrics.jsonl"),
            ends_with_best=stage.settings.best,
            report_to=training.report_to,
        )
        scores = trainer.fit()
    if joint.frozen is not None:
        joint.frozen.flush()
    state = trainer.trained()
    trainer.release()
    if processes.first():
        record = {"scores": scores, "parts": [asdict(row) for row in rows], "unused": unused}
        write_text(folder / "scores.json", json.dumps(record))
        write_tensors(folder / DONE, state)
    processes.wait()
    return scores


def _reopen(model: VisionLanguageModel, stage: Stage, folder: Path) -> dict[str, Any]:
    """Load the result of a finished stage into a model that has those of the stages before it. Return its scores."""
    record = stage_record(folder)
    prepare_parts(model, stage.parts, stage.key)
    for name in record["unused"]:
        model.get_parameter(name.removeprefix("model.")).requires_grad_(False)
    load_trained(model, load_file(folder / DONE))
    scores: dict[str, Any] = record["scores"]
    return scores


def prepared(
    model: VisionLanguageModel, stage: Stage, sets: Sets, cache: Path, log: RejectedLog
) -> tuple[Joint, Any, Drawn[Any] | None, list[str]]:
    """Prepare a model for a stage. Return its `Joint`, its samples, those held out, and what is frozen as it has no effect.

    `cache` is the folder for what a frozen tower computes, unless the config names another.
    """
    torch.manual_seed(_seed(model.settings.training.seed, stage.name))  # of new adapters, whatever ran before
    prepare_parts(model, stage.parts, stage.key)
    joint = Joint(model, frozen_tower(model, stage, cache))
    data, held_out = _samples(joint, stage, sets, log)
    judged = (collate([data[place]]) for place in range(min(JUDGED, len(data))))
    unused = freeze_unused(joint, judged)
    if not any(parameter.requires_grad for parameter in joint.parameters()):
        raise ConfigError(f"{stage.key}.train: nothing that a loss depends on would be trained. Try: `llm: full`")
    return joint, data, held_out, unused


def _check_words(model: VisionLanguageModel) -> None:
    """Raise ConfigError for a projector that begins with the words of captions, and has none yet."""
    projector, _ = model.resolved.language("vita train")
    if isinstance(model.projector, WordProjector) and projector.settings.weights is None and projector.part is None:
        raise ConfigError(
            f"projector.type: {projector.settings.type!r} begins with the words of captions, which only a training without "
            "stages gives it. Try: train without `training.stages` first, and its file as `projector.weights`"
        )


def _samples(joint: Joint, stage: Stage, sets: Sets, log: RejectedLog) -> tuple[Any, Drawn[Any] | None]:
    """Return the samples of all steps of a stage in their order, and those that are held out, if there are any."""
    model, settings = joint.model, stage.settings
    seed, prompt = model.settings.training.seed, model.settings.prompt
    if settings.prompt is not None:
        prompt = prompt.model_copy(update={"template": settings.prompt})
    keep = not kept_sets(model.settings.training, sets).isdisjoint(stage.data)
    maker = SampleMaker(model, prompt, settings.max_length, joint.frozen, keep=keep)
    mixture = Mixture([sets[name][0] for name in stage.data], seed)
    steps = settings.steps or math.ceil((settings.epochs or 1) * mixture.epoch / settings.batch_size)
    data = Drawn(mixture, steps * settings.batch_size, maker, log)
    held = [one for _, one in (sets[name] for name in stage.data) if one is not None]
    maker = SampleMaker(model, prompt, settings.max_length, joint.frozen)  # every score sees them
    usable = [one for one in held if _usable(one, seed, maker, log)]
    if len(usable) < len(held):
        processes.tell(f"stage {stage.name}: a data set has no held-out sample that can be read, so it is not scored")
    held = usable
    _check_best(stage, held or [None])
    held_mixture = Mixture(held, seed) if held else None
    held_out = None if held_mixture is None else Drawn(held_mixture, held_mixture.epoch, maker, log)
    return Grouped(data, settings.batch_size, seed) if settings.group_by_length else data, held_out


def _usable(held: DataSet, seed: int, maker: SampleMaker, log: RejectedLog) -> bool:
    """Return whether a held-out set has a sample that a loss can be computed of. Raises ConfigError if the log is strict."""
    try:
        Drawn(Mixture([held], seed), 1, maker, log)[0]
    except ConfigError:
        if log.strict:
            raise
        return False
    return True


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}-{name}".encode()).digest()[:4])
