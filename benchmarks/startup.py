"""Start-up of the light commands beside importing the four libraries they stand on."""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import alternate, ratio, report

BASE = "import typer, rich, pluggy, yaml"
COMMANDS = {"vita --help": ["--help"], "vita towers": ["towers"], "vita plugins": ["plugins"]}
GOAL = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds

    def process(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    sides = {"imports": lambda: process("-c", BASE)}
    for name, words in COMMANDS.items():
        sides[name] = lambda words=words: process("-m", "vita_core", *words)
    times = alternate(sides, rounds)
    rows = [{"command": name, "ratio": ratio(times, name, "imports")} for name in COMMANDS]
    report("startup", f"at most {GOAL}x of python -c {BASE!r}", ["command", "ratio"], rows, goal=GOAL)


if __name__ == "__main__":
    main()
