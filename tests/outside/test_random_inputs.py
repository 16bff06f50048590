"""Random files at each door keep the law. `make test` tries a few fixed ones, `make stress` as many as the time allows."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import samples
from conftest import GOLDEN
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from inputs import FEW as SETTINGS
from inputs import changed_bytes, changed_data, json_files, png_files, safetensors_files
from law import holds

pytestmark = pytest.mark.slow
EXAMPLES, ROUND = 12, 200
"""The random files of a door in `make test`, and those of each round of `make stress`."""
FEW = settings(SETTINGS, max_examples=EXAMPLES)
MANY = settings(FEW, derandomize=False, max_examples=ROUND, phases=[Phase.generate, Phase.shrink], print_blob=True)


@dataclass(frozen=True)
class Door:
    """A function of tests/doors.py, the file below a folder that is random, and the strategy of its bytes.

    `start` makes the folder and returns what the function is called with. The same call with `content` is the warm-up.
    """

    name: str
    function: str
    file: str
    inputs: Callable[[], st.SearchStrategy[bytes]]
    valid: Callable[[], bytes]
    whole: str = ""

    def start(self, folder: Path) -> Path:
        """Make the folder, and return what the function is called with."""
        (folder / "a.png").write_bytes(samples.picture("PNG"))
        path = samples.copied(self.whole, folder) if self.whole else folder / self.file
        if self.file.endswith("index.json"):
            (path / "model.safetensors").unlink()
        return path


def dumped(data: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(data).encode()


def lines() -> st.SearchStrategy[bytes]:
    one = st.one_of(*[changed_data(row).map(json.dumps) for row in samples.ROWS])
    return st.one_of(
        st.lists(one, min_size=1, max_size=4).map(lambda rows: "\n".join(rows).encode()),
        changed_bytes(samples.data_file().read_bytes()),
    )


def entry_points() -> st.SearchStrategy[bytes]:
    return st.one_of(changed_bytes(POINTS), st.text(max_size=60).map(lambda text: f"[vita]\n{text} = json\n".encode()))


def picture_door(kind: str) -> Door:
    def inputs() -> st.SearchStrategy[bytes]:
        whole = samples.picture(kind)
        return changed_bytes(whole) | png_files(whole) if kind == "PNG" else changed_bytes(whole)

    return Door(f"{kind} picture", "doors:open_picture", f"case.{kind.lower()}", inputs, lambda: samples.picture(kind))


def golden(name: str, file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / file).read_text())
    return found


POINTS = b"[console_scripts]\na = b:c\n[vita]\nfuzzed = json\nother = json:loads [more]\n"
SHARDS = {"metadata": {}, "weight_map": dict.fromkeys(("a", "b"), "model-1.safetensors")}
PROCESSOR, ENCODE, PLAN = "preprocessor_config.json", "doors:encode_checkpoint", "doors:plan_and_encode"
DOORS = [
    Door("YAML config", "doors:read_config", "case.yaml", lambda: json_files(samples.CONFIG), dumped(samples.CONFIG)),
    *[
        Door(f"config.json of {name}", PLAN, "config.json", lambda name=name: json_files(golden(name, "config.json")),
             dumped(golden(name, "config.json")), name)
        for name in ("clip", "siglip", "internvit")
    ],
    *[
        Door(f"{PROCESSOR} of {name}", ENCODE, PROCESSOR, lambda name=name: json_files(golden(name, PROCESSOR)),
             dumped(golden(name, PROCESSOR)), name)
        for name in ("clip", "siglip")
    ],
    Door("safetensors", ENCODE, "model.safetensors", lambda: safetensors_files(samples.weights()), samples.weights, "clip"),
    Door("index of shards", ENCODE, "model.safetensors.index.json", lambda: json_files(SHARDS), dumped(SHARDS), "clip"),
    *[picture_door(kind) for kind in samples.PICTURES],
    Door("JSONL", "doors:read_data", "case.jsonl", lines, lambda: samples.data_file().read_bytes()),
    Door("LLaVA JSON", "doors:read_data", "case.json", lambda: json_files(samples.ROWS), dumped(samples.ROWS)),
    Door("WebDataset shard", "doors:read_data", "case.tar", lambda: changed_bytes(samples.tar()), samples.tar),
    Door("Parquet table", "doors:read_data", "case.parquet", lambda: changed_bytes(samples.parquet()), samples.parquet),
    Door("metadata of a plugin", "doors:discover_plugins", "fuzzed-1.0.dist-info/entry_points.txt", entry_points, lambda: POINTS),
]  # fmt: skip


def tried(door: Door, folder: Path, options: settings, start: int | None = None) -> Counter[str]:
    """Hold random files of a door to the law. Return how many ended in which way."""
    found: Counter[str] = Counter()
    path, warm = (folder / name for name in ("cases", "valid"))
    targets = []
    for place in (path, warm):
        place.mkdir(parents=True, exist_ok=True)
        targets.append(door.start(place))
        file = (targets[-1] if door.whole else place) / door.file
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(door.valid())
    case_file = (targets[0] if door.whole else path) / door.file
    called = [path, warm] if "plugins" in door.function else targets
    # or the keys of the user's config that do not suit the checkpoint, or what made pixels of a wrong size
    names = [case_file.name, str(called[0]), "tower.pixel_shuffle", "the tower's image_processor"]

    @options
    @given(door.inputs())
    def case(content: bytes) -> None:
        case_file.write_bytes(content)
        found[holds(door.function, called[0], names=names, warm=(called[1],)).kind] += 1

    (case if start is None else seed(start)(case))()
    return found


@pytest.mark.parametrize(
    "door",
    [
        pytest.param(
            door,
            id=door.name,
            marks=pytest.mark.reliability(
                door=door.name,
                fault=f"random changes ({EXAMPLES} files in `make test`)",
                expected="a result, or an error that names the file",
            ),
        )
        for door in DOORS
    ],
)
def test_random_files(door: Door, tmp_path: Path) -> None:
    assert sum(tried(door, tmp_path, FEW).values()) >= EXAMPLES


@pytest.mark.stress
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_random_files_for_long(door: Door, tmp_path: Path, stress_record: Callable[..., None]) -> None:
    """Rounds of `ROUND` files with one seed after the other, until the door's share of the time is over."""
    first, share = int(os.environ.get("STRESS_SEED", "1")), float(os.environ.get("STRESS_SECONDS", "60")) / len(DOORS)
    start, rounds, found = time.monotonic(), 0, Counter[str]()
    while not rounds or time.monotonic() - start < share:
        found += tried(door, tmp_path / str(rounds), MANY, first + rounds)
        rounds += 1
    stress_record(door.name, seeds=[first, first + rounds - 1], seconds=round(time.monotonic() - start), ends=found)
