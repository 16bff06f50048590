"""``vita data check`` and ``vita data show``."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita_core.cli.common import CONFIG_HELP, JsonOption, SetOption, print_json
from vita_core.cli.exits import FAILURES
from vita_core.cli.samples import print_report, print_sample, token_rows

if TYPE_CHECKING:
    from vita_core.planning.resolution import Resolved
    from vita_core.training.counting import TokenCounter
    from vita_core.training.data import Source

app = typer.Typer(
    help="Check a data set before a training, and show what a model is trained on.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="D",
        help="A folder of pictures with .txt files, a .jsonl, a LLaVA or ShareGPT .json, a directory that `datasets` saved, "
        ".parquet files, shards such as 'shards/{000..099}.tar', or the name of a data set in the config.",
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", metavar="CONFIG", help=f"Count tokens as this config does. {CONFIG_HELP}")
]
StageOption = Annotated[str | None, typer.Option(help="Use the prompt and the max_length of this stage of the config.")]
FormatOption = Annotated[str, typer.Option("--format", help="The format, if it is not to be found from the files.")]
PicturesOption = Annotated[str | None, typer.Option(help="The folder that the paths of pictures are relative to.")]
SplitOption = Annotated[str | None, typer.Option(help="The split of a data set that `datasets` saved. Default: train.")]
LengthOption = Annotated[
    int | None,
    typer.Option(min=1, help="The most tokens of a sample, within the model's context. Default: the stage's."),
]


@app.command()
def check(
    data: DataArgument,
    config: ConfigOption = None,
    stage: StageOption = None,
    format_: FormatOption = "auto",
    pictures: PicturesOption = None,
    split: SplitOption = None,
    max_length: LengthOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only this many samples, the first ones.")] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="Write the rejected samples to this JSONL file, with place and reason.")
    ] = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Read a whole data set and decode its pictures. Print counts, sizes, duplicates, and what cannot be trained on.

    With --config, print the lengths of the samples in tokens. The exit code is 3 if samples are rejected.
    """
    from tqdm import tqdm

    from vita_core.training.data.checking import check_source

    resolved = _resolved(config, overrides)
    source = _opened(resolved, data, format_, pictures, split)
    counter = _counter(resolved, stage, max_length)
    total = len(source) if limit is None else min(limit, len(source))
    pixels = None if resolved is None else resolved.config.images.max_pixels
    with tqdm(total=total, unit="sample", desc="check", disable=None) as bar:
        report = check_source(source, counter=counter, max_pixels=pixels, limit=limit, tick=bar.update)
    if rejected is not None:
        from vita_core.weights.files import write_text

        rows = ({"data": data, **row} for row in report.rows)
        write_text(rejected, "".join(json_module.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if json:
        print_json(report.to_dict())
    else:
        print_report(report, len(source), counted=counter is not None)
    if report.rejected:
        raise typer.Exit(FAILURES)


@app.command()
def show(
    data: DataArgument,
    index: Annotated[int, typer.Option(min=0, help="Which sample to show, from 0.")] = 0,
    config: ConfigOption = None,
    stage: StageOption = None,
    format_: FormatOption = "auto",
    pictures: PicturesOption = None,
    split: SplitOption = None,
    max_length: LengthOption = None,
    overrides: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print one sample. With --config, print the exact tokens that the model reads, and which have a label.

    On a terminal, tokens with a label are green; elsewhere they stand between >>> and <<<. The exit code is 3 if the sample
    is rejected.
    """
    from vita_core.errors import ConfigError
    from vita_core.training.data import SampleError, picture_of

    resolved = _resolved(config, overrides)
    source = _opened(resolved, data, format_, pictures, split)
    if index >= len(source):
        raise ConfigError(f"--index: there is no sample {index}. Try: 0 to {len(source) - 1}")
    counter = _counter(resolved, stage, max_length)
    try:
        sample = source.sample(index)
        sizes = [picture_of(ref).size for ref in sample.pictures]
        counted = None if counter is None else counter.count(sample, sizes)
    except SampleError as error:
        told = error if error.where else error.at(sample.where)
        typer.echo(f"rejected: {told}", err=True)
        raise typer.Exit(FAILURES) from None
    shown: dict[str, Any] = {
        "where": sample.where,
        "pictures": [{"name": ref.name, "size": size} for ref, size in zip(sample.pictures, sizes, strict=True)],
        "videos": [ref.name for ref in sample.videos],
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in sample.turns],
    }
    if counter is not None and counted is not None:
        shown |= {"tokens": token_rows(counter, counted), "length": counted.length, "trained": counted.trained}
    if json:
        print_json(shown)
    else:
        print_sample(shown)


def _resolved(config: str | None, overrides: Sequence[str] | None) -> Resolved | None:
    from vita_core.planning.resolution import resolve

    return None if config is None else resolve(config, overrides or (), offline=True)


def _opened(resolved: Resolved | None, data: str, format_: str, pictures: str | None, split: str | None) -> Source:
    """Open a data set of the config by its name, or else a path."""
    from vita_core.config.data import DataSetConfig, expand_data
    from vita_core.config.validation import validate
    from vita_core.training.data import open_source

    named = {} if resolved is None else resolved.config.data
    if data in named:
        return open_source(named[data], f"data.{data}.path")
    stated = {"path": expand_data(data, Path.cwd()), "format": format_, "pictures": pictures, "split": split}
    return open_source(validate(DataSetConfig, stated, section="--format" if format_ != "auto" else ""), "D")


def _counter(resolved: Resolved | None, stage: str | None, max_length: int | None) -> TokenCounter | None:
    from vita_core.cli.common import quiet_transformers
    from vita_core.errors import ConfigError

    if resolved is None:
        if stage is not None or max_length is not None:
            raise ConfigError("--stage and --max-length need a tokenizer. Try: `--config CONFIG`")
        return None
    quiet_transformers()
    from vita_core.training.counting import TokenCounter

    return TokenCounter(resolved, stage=stage, max_length=max_length)
