"""Run the tests with the oldest and with the newest versions that pyproject.toml allows: `make compat`.

For each of the two, creates an environment in .compat/ and runs the tests of every package that are not marked `slow`.
Prints the versions and the results. Exits with 1 if a test fails in either environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}  # values of uv's --resolution


def create(name: str) -> Path:
    """Create the environment `.compat/NAME` and return its Python."""
    folder = ROOT / ".compat" / name
    venv.create(folder, clear=True, symlinks=True, with_pip=True)
    install = [ROOT / ".ci" / "install", folder, "--resolution", RESOLUTIONS[name], "--editable", ".[dev]"]
    subprocess.run(install, cwd=ROOT, check=True)
    return folder / "bin" / "python"


def versions(python: Path) -> dict[str, str]:
    """Return the installed version of every dependency in pyproject.toml, development tools left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["video"], *extras["lora"], *extras["data"], *extras["compare"]]
    command = [python, "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    found = {package["name"].lower().replace("_", "-"): package["version"] for package in listed}
    names = [re.match(r"[\w-]+", requirement)[0].replace("_", "-") for requirement in needed]
    return {name: found[name] for name in sorted(names)}


def passes(python: Path) -> bool:
    """Run the tests and return whether all of them pass."""
    folders = sorted({file.parent for file in (ROOT / "tests").glob("*/test_*.py")})
    command = [python, "-m", "pytest", "-q", "-n", "auto", "-m", "not slow and not extras", *folders]
    # the tests run on every core already; older versions of torch start processes to compile, which these tests must not
    one = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **one}, check=False).returncode == 0


def main() -> None:
    """Test both environments, then print the table of versions and one line of result for each."""
    found, results = {}, {}
    for name in RESOLUTIONS:
        print(f"== {name} versions", flush=True)
        start = time.monotonic()
        python = create(name)
        found[name] = versions(python)
        installed = time.monotonic()
        passed = passes(python)
        spent = f"{installed - start:.0f} s to install, {time.monotonic() - installed:.0f} s to test"
        results[name] = (passed, spent)
    print(f"\n{'':18}" + "".join(f"{name:12}" for name in found))
    for package in found["oldest"]:
        print(f"{package:18}" + "".join(f"{found[name][package]:12}" for name in found))
    for name, (passed, spent) in results.items():
        print(f"{name} versions: {'passed' if passed else 'FAILED'} ({spent})")
    sys.exit(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    main()
