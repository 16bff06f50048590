"""Time the start-up of the light commands, compared with importing the four libraries they use, and what a plugin adds."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Times, alternate, ratio, report

BASE = "import typer, rich, pluggy, yaml"
COMMANDS = {
    "vita --help": ["--help"],
    "vita towers": ["towers"],
    "vita plugins": ["plugins"],
    "vita plan": ["plan", "clip-vicuna-7b"],
}
HELD = ("vita --help", "vita towers", "vita plugins")  # `vita plan` also imports pydantic to validate the config
GOAL, PLUGINS, MILLISECONDS = 1.45, 60, 2.0
HEAVY = ("torch", "transformers", "timm", "torchvision")
PLUGIN = '''"""A tower, as a third party would publish it."""
from vita_core import Shape, TowerSpec, hookimpl

vita_api = 1


def shape(config, options):
    return Shape.vit(image_size=224, patch_size=16, width=64, layers=2, mlp_width=128, embedding_parameters=1, block_parameters=1)


def processor(config, shape):
    return {{"image_processor_type": "CLIPImageProcessor"}}


@hookimpl
def vita_towers():
    return [TowerSpec(name="bench{0}", summary="tower {0}", factory="vita_bench_{0}.tower:Tower", shape=shape,
                      processor=processor, model_types=("bench{0}",))]
'''


def install(folder: Path, count: int) -> None:
    """Write `count` distributions to `folder` as pip installs them: package, entry point, metadata with a README of 5 kB."""
    for number in range(count):
        package, info = folder / f"vita_bench_{number}", folder / f"vita_bench_{number}-1.0.dist-info"
        package.mkdir()
        info.mkdir()
        (package / "__init__.py").write_text(PLUGIN.format(number))
        readme = "A paragraph of the README.\n" * 190
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vita-bench-{number}\nVersion: 1.0\n\n{readme}")
        (info / "entry_points.txt").write_text(f"[vita]\nbench{number} = vita_bench_{number}\n")
        (info / "RECORD").write_text("")


def python(*arguments: str, plugins: Path | None = None) -> str:
    """Run Python, which may write bytecode: both sides are compiled, as pip leaves them."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **({"PYTHONPATH": str(plugins)} if plugins else {})}
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def check(folder: Path) -> None:
    """Check that all plugins are found, and that no command imports a heavy library."""
    python("-c", f"import compileall; compileall.compile_dir({str(folder)!r}, quiet=1)")  # as pip does
    assert python("-m", "vita_core", "towers", plugins=folder).count("vita-bench-") == PLUGINS
    assert "vita-bench-" not in python("-m", "vita_core", "towers")
    for words in COMMANDS.values():
        loaded = f"print('loaded', [m for m in {HEAVY} if m in sys.modules])"
        run = f"import sys, atexit\nsys.argv[1:] = {words}\natexit.register(lambda: {loaded})\n"
        assert python("-c", run + "from vita_core.cli import main\nmain()", plugins=folder).endswith("loaded []\n"), (
            words
        )


def children_time() -> float:
    """Return the processor seconds of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def per_plugin(times: Times, command: str) -> float:
    """Return the milliseconds that one plugin adds to a command: the median of all rounds."""
    pairs = zip(times[f"{command}, {PLUGINS} plugins"], times[command], strict=True)
    return round(statistics.median(1000 * (more - less) / PLUGINS for more, less in pairs), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Run 6 rounds.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu-time", action="store_true", help="Count the processor seconds of the commands.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder), PLUGINS)
        check(Path(folder))
        sides = {"imports": lambda: python("-c", BASE)}
        for name, words in COMMANDS.items():
            sides[name] = lambda words=words: python("-m", "vita_core", *words)
            sides[f"{name}, {PLUGINS} plugins"] = lambda words=words: python(
                "-m", "vita_core", *words, plugins=Path(folder)
            )
        clock = children_time if arguments.cpu_time else time.perf_counter
        times = alternate(sides, 6 if arguments.quick else arguments.rounds, clock)
    rows = [
        {
            "command": name,
            "ratio": ratio(times, name, "imports"),
            "goal": GOAL if name in HELD else "-",
            "ms a plugin": per_plugin(times, name),
        }
        for name in COMMANDS
    ]
    claim = (
        f"goals: at most {GOAL}x of python -c {BASE!r}; with {PLUGINS} plugins, at most {MILLISECONDS} ms more for each"
    )
    report("startup", claim, list(rows[0]), rows, goal=GOAL, goal_ms=MILLISECONDS, clock=clock.__name__)


if __name__ == "__main__":
    main()
