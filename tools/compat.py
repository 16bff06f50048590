"""Run the tests with the oldest and with the newest versions that pyproject.toml allows: `make compat`.

For each of the two, creates an environment in .compat/ and runs the tests of every package that are not marked `slow`.
Prints the versions, what ran, and the results. Exits with 1 if a test fails in either environment, or if none ran.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path
from xml.etree import ElementTree

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


CHOSEN = "not slow and not extras"


def tested(python: Path, report: Path) -> tuple[bool, str]:
    """Run the tests. Return whether all of them passed and at least one did, and the counts as text."""
    report.unlink(missing_ok=True)  # of an earlier run
    folders = sorted({file.parent for file in (ROOT / "tests").glob("*/test_*.py")})
    command = [python, "-m", "pytest", "-q", "-n", "auto", "-m", CHOSEN, f"--junitxml={report}", *folders]
    # the tests run on every core already; older versions of torch start processes to compile, which these tests must not
    one = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, **one}, check=False).returncode
    return counted(report, code)


def counted(report: Path, code: int) -> tuple[bool, str]:
    """Return whether a run of pytest passed, and its counts as text, by its report in XML and its exit code."""
    if not report.is_file():
        return False, f"pytest ended with {code} and wrote no report"
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314  # pytest has just written it
        totals = {key: total + int(suite.get(key, 0)) for key, total in totals.items()}
    failed = totals["failures"] + totals["errors"]
    passed = totals["tests"] - failed - totals["skipped"]
    told = f"{passed} tests passed, {failed} failed, {totals['skipped']} were skipped"
    return code == 0 and not failed and passed > 0, told


def main() -> None:
    """Test both environments, then print the table of versions and one line of result for each."""
    found, results = {}, {}
    for name in RESOLUTIONS:
        print(f"== {name} versions", flush=True)
        start = time.monotonic()
        python = create(name)
        found[name] = versions(python)
        installed = time.monotonic()
        passed, told = tested(python, ROOT / ".compat" / f"{name}.xml")
        spent = f"{installed - start:.0f} s to install, {time.monotonic() - installed:.0f} s to test"
        results[name] = (passed, f"{told}; {spent}")
    print(f"\n{'':18}" + "".join(f"{name:12}" for name in found))
    for package in found["oldest"]:
        print(f"{package:18}" + "".join(f"{found[name][package]:12}" for name in found))
    print(
        f"\nran: pytest -m '{CHOSEN}' of every folder in tests/, on Python {platform.python_version()}, {platform.platform()}"
    )
    print("not run: other versions of Python (`make types` checks types for them, and no more), slow tests, GPUs")
    for name, (passed, told) in results.items():
        print(f"{name} versions: {'passed' if passed else 'FAILED'} ({told})")
    sys.exit(not all(passed for passed, _ in results.values()))


if __name__ == "__main__":
    main()
