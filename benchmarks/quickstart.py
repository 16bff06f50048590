"""Measure what the quickstart names, on photos that it was not trained on: the rows of the README's table.

`quickstart_split.json` says which photos are of which row, by the names of their files in Caltech 101 and Tiny ImageNet. The
photos are not part of this project: `--photos` and `--small-photos` are folders that hold them with a `captions.jsonl`.

    python benchmarks/quickstart.py train --photos DIR --small-photos DIR --out DIR      # captions.jsonl without rows 3 and 4
    python benchmarks/quickstart.py measure --config quickstart --rows 1 2 --photos DIR --small-photos DIR
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import report

SPLIT = Path(__file__).with_name("quickstart_split.json")
SETS = ("photos", "small-photos")
ROWS = {
    "1": "Caltech 101's kinds",
    "2": "Tiny ImageNet's kinds, 64 x 64 pixels",
    "3": "kinds known from small photos only, full size",
    "4": "ten kinds that it never saw",
}
HELD_OUT = 0.05  # as `training.held_out` of the shipped config, with its seed 0: what `vita train` keeps apart
ALSO = {  # kinds of Caltech 101 that Tiny ImageNet has too, under these WordNet ids
    "barrel": "n02795169",
    "binocular": "n02841315",
    "cannon": "n02950826",
    "cougar_body": "n02125311",
    "cougar_face": "n02125311",
    "dragonfly": "n02268443",
    "elephant": "n02504458",
    "lobster": "n01983481",
    "pizza": "n07873807",
    "scorpion": "n01770393",
    "trilobite": "n01768244",
    "umbrella": "n04507155",
}
NEVER = (
    *("photos/beaver", "photos/gramophone", "photos/kangaroo", "photos/pagoda", "photos/saxophone"),
    *("small-photos/n01882714", "small-photos/n02917067", "small-photos/n03393912", "small-photos/n04399382"),
    "small-photos/n07753592",
)
Row = dict[str, Any]


def captions(folders: Mapping[str, Path]) -> dict[str, Row]:
    """Return the rows of both captions.jsonl, in order, by the set's name and the picture's path in it."""
    lines = [(name, line) for name in SETS for line in (folders[name] / "captions.jsonl").read_text().splitlines()]
    rows = [(name, json.loads(line)) for name, line in lines]
    return {f"{name}/{row['image']}": row for name, row in rows}


def kind(name: str) -> str:
    """Return the set and the folder of a picture, such as ``photos/barrel``."""
    return name.rpartition("/")[0]


def split(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return the pictures of each row of the table, and further accepted names of row 3's kinds."""
    names = list(rows)
    order = list(range(len(names)))
    random.Random(0).shuffle(order)  # noqa: S311  # the order of `vita train`, which is no secret
    held = [names[place] for place in sorted(order[: round(len(order) * HELD_OUT)])]
    wordnet = {kind(name): row["names"] for name, row in rows.items() if "names" in row}
    return {
        "1": [name for name in held if name.startswith("photos/")],
        "2": [name for name in held if name.startswith("small-photos/")],
        "3": [name for name in names if kind(name).removeprefix("photos/") in ALSO],
        "4": [name for name in names if kind(name) in NEVER],
        "names": {f"photos/{one}": wordnet[f"small-photos/{number}"] for one, number in ALSO.items()},
    }


def write_training(rows: Mapping[str, Row], parts: Mapping[str, Any], folders: Mapping[str, Path], out: Path) -> None:
    """Write a captions.jsonl for each set, without the pictures of rows 3 and 4."""
    left_out = {*parts["3"], *parts["4"]}
    for name in SETS:
        kept = [row for key, row in rows.items() if key.startswith(f"{name}/") and key not in left_out]
        (out / name).mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({**row, "image": str(folders[name].absolute() / row["image"])}) for row in kept]
        (out / name / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))
        print(f"{out / name / 'captions.jsonl'}: {len(kept)} pictures")


def measure(config: str, wanted: Sequence[str], parts: Mapping[str, Any], folders: Mapping[str, Path]) -> list[Row]:
    """Return one row for each of the table's: how many pictures, the share that is named, and that by chance."""
    from vita_core import build_model, load_config
    from vita_core.training.data import read_samples
    from vita_core.training.evaluate import evaluate

    found = {
        f"{name}/{sample.image.relative_to(folders[name])}": sample
        for name in SETS
        for sample in read_samples(folders[name] / "captions.jsonl")
    }
    model, results = build_model(load_config(config)), []
    for row in wanted:
        samples = [found[name] for name in parts[row]]
        if row == "3":
            samples = [
                replace(sample, names=tuple(parts["names"][kind(name)]))
                for name, sample in zip(parts[row], samples, strict=True)
            ]
        scores = evaluate(model, samples, batch=32)
        shares = {key: round(100 * scores[key], 1) for key in ("named", "shuffled")}
        results.append({"row": ROWS[row], "photos": scores["n"], **shares})
        print(results[-1], flush=True)
        for answer in scores["answers"]:
            print(f"{'named ' if answer['named'] else 'missed'}  {answer['caption']:28s} {answer['answer']}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("split", "train", "measure"))
    parser.add_argument("--photos", type=Path, required=True, help="the photos of Caltech 101")
    parser.add_argument("--small-photos", type=Path, required=True, help="the photos of Tiny ImageNet")
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=["1", "2"])
    parser.add_argument("--out", type=Path, help="where `train` writes, or the name under which `measure` writes")
    given = parser.parse_args()
    folders = {"photos": given.photos, "small-photos": given.small_photos}
    if given.what == "split":
        SPLIT.write_text(json.dumps(split(captions(folders)), indent=0) + "\n")
        return
    parts = json.loads(SPLIT.read_text())
    if given.what == "train":
        write_training(captions(folders), parts, folders, given.out)
        return
    rows = measure(given.config, given.rows, parts, folders)
    report(
        str(given.out or "quickstart-measured"),
        "photos that the quickstart names",
        ["row", "photos", "named", "shuffled"],
        rows,
    )


if __name__ == "__main__":
    main()
