"""Ask pip-audit whether a pinned version has a known vulnerability: `make audit`.

Prints one line for each file of constraints. It ends with 0 only if the service answered for every pin of every file and knows
of no vulnerability; with 3 if it knows of one; and with 2, after "NOT audited", if anything was not asked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(ROOT.glob("constraints*.txt"))
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==([^\s;#]+)")


@dataclass(frozen=True)
class Result:
    """What is known of one file: the `found` vulnerabilities, or why it was `not_audited`."""

    found: tuple[str, ...] = ()
    not_audited: str | None = None
    packages: int = 0

    @property
    def code(self) -> int:
        """The exit code."""
        return 2 if self.not_audited is not None else 3 if self.found else 0


def pins(file: Path) -> set[tuple[str, str]]:
    """Return the names and versions that a file pins. Raises ValueError for a line that pins none."""
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    found = {line: PIN.match(line) for line in lines if line}
    for line, match in found.items():
        if match is None:
            raise ValueError(f"not a pin: {line!r}")
    return {(_plain(match[1]), match[2]) for match in found.values() if match is not None}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def judged(wanted: set[tuple[str, str]], printed: str, code: int, told: str) -> Result:
    """Return what pip-audit's JSON, exit code and messages say of the pins that it had to audit."""
    try:
        rows = json.loads(printed)["dependencies"]
        audited = {(_plain(row["name"]), row["version"]): row["vulns"] for row in rows if "skip_reason" not in row}
    except (ValueError, KeyError, TypeError):
        lines = [line for line in told.splitlines() if line.strip() and "WARNING" not in line]
        return Result(not_audited=lines[-1].strip() if lines else f"pip-audit ended with {code} and said nothing")
    missing = sorted(f"{name} {version}" for name, version in wanted - audited.keys())
    if missing:
        return Result(not_audited=f"{len(missing)} of {len(wanted)} packages were skipped: {', '.join(missing[:5])}")
    found = [f"{name} {version}: {one['id']}" for (name, version), vulns in audited.items() for one in vulns]
    if (code == 0) == bool(found):
        return Result(not_audited=f"pip-audit ended with {code}, but printed {len(found)} vulnerabilities")
    return Result(tuple(sorted(found)), packages=len(wanted))


def audit(file: Path, command: Sequence[str]) -> Result:
    """Run pip-audit on one file of pins. `--strict` makes it fail where it would skip a package."""
    try:
        wanted = pins(file)
    except ValueError as error:
        return Result(not_audited=str(error))
    if not wanted:
        return Result(not_audited="it pins nothing")
    options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(
            [*command, *options, "--requirement", file], capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Result(not_audited=f"pip-audit did not run: {error}")
    return judged(wanted, done.stdout, done.returncode, done.stderr)


def main() -> None:
    """Audit every file of constraints."""
    command = [str(Path(sys.executable).with_name("pip-audit"))]
    results = {file.name: audit(file, command) for file in FILES}
    for name, result in results.items():
        if result.not_audited is not None:
            print(f"{name}: NOT audited: {result.not_audited}")
        else:
            told = "; ".join(result.found) or "no known vulnerability"
            print(f"{name}: {result.packages} packages audited: {told}")
    if not results:
        print("NOT audited: there is no file of constraints")
    codes = [result.code for result in results.values()]
    sys.exit(2 if 2 in codes or not codes else max(codes))


if __name__ == "__main__":
    main()
