"""Build the files of a release in dist/ and check them: `make release`.

It ends at the first check that fails. The checks: one version, a section of it in CHANGELOG.md, the same bytes from two builds
in other places, the rules of the package index (twine), and a new environment in which the wheel is installed with the pinned
versions, prints its help and encodes a picture. `dist/` then has the sdist, the wheel and the SBOM of that environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
FRESH = ROOT / ".compat" / "fresh"
BIN = Path(sys.executable).parent
TOWER = ROOT / "tests" / "fixtures" / "saved-0.1" / "clip"
PICTURE = ROOT / "tests" / "fixtures" / "golden" / "pictures" / "wide.png"
SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def stated_version() -> str:
    """Return the version in pyproject.toml, the only place where it is written by hand beside the citation.

    Raises ValueError if the citation has another, or if the package writes one of its own.
    """
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if cited is None or cited[1] != version:
        raise ValueError(f"CITATION.cff: version {cited and cited[1]}, but pyproject.toml has {version}")
    for file in (ROOT / "vita_core").rglob("*.py"):
        if re.search(r"^__version__\s*=", file.read_text(encoding="utf-8"), re.MULTILINE):
            raise ValueError(f"{file.relative_to(ROOT)}: writes a version of its own")
    return version


def changelog_problems(text: str, version: str) -> list[str]:
    """Return what is wrong with a CHANGELOG.md: no section for the version, or another form."""
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    wrong = [f"no section for {version}"] if not any(_of(head, version) for head in heads) else []
    form = r"Unreleased|\d+\.\d+\.\d+\S* \((?:unreleased|\d{4}-\d{2}-\d{2})\)"
    wrong += [f"heading: {head!r}" for head in heads if not re.fullmatch(form, head)]
    wrong += [f"section: {name!r}" for name in re.findall(r"^### (.+)$", text, re.MULTILINE) if name not in SECTIONS]
    body = re.split(r"^### .+$", text, maxsplit=1, flags=re.MULTILINE)[-1]
    for line in body.splitlines():
        if line and not re.match(r"- \S|  \S|#{2,3} \S|[A-Z][A-Za-z ]*$", line):
            wrong.append(f"neither an entry nor a heading: {line[:50]!r}")
    return wrong


def _of(head: str, version: str) -> bool:
    return head == "Unreleased" or head.partition(" ")[0] == version


def sources(target: Path) -> Path:
    """Copy the files that git tracks, or all of an unpacked sdist, to `target` and return it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  # the user's own git
    if listed.returncode != 0:
        return Path(shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".*", "dist", "__pycache__")))
    for name in filter(None, listed.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


def epoch() -> str:
    """Return the time in seconds that the files of a release get: SOURCE_DATE_EPOCH, or else that of the last commit."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    told = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  # the user's own git
    return told.stdout.strip() or "315532800"  # 1980, where the time of a zip file begins


def build(source: Path, out: Path) -> dict[str, str]:
    """Build the sdist and the wheel of `source` in `out`. Return the SHA-256 of each file by its name."""
    run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=source, SOURCE_DATE_EPOCH=epoch())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


def built_twice(out: Path) -> dict[str, str]:
    """Build in two places, the second time with other permissions, and keep the first files in `out`.

    Returns their hashes. Raises ValueError if they differ.
    """
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(prefix="another-place-") as second:
        made = build(sources(Path(first) / "source"), out)
        mask = os.umask(0o077)
        try:
            again = build(sources(Path(second) / "a" / "source"), Path(second) / "dist")
        finally:
            os.umask(mask)
    if made != again:
        raise ValueError(f"two builds differ: {made} and {again}")
    return made


def check_installed(bin_folder: Path, version: str, folder: Path) -> None:
    """Print the help and encode a picture with the `vita` of an environment, in `folder`, far from the sources.

    Raises ValueError if it is another version, or gives other features than a tower of this size has.
    """
    vita, out = bin_folder / "vita", folder / "features.safetensors"
    told = run([vita, "--version"], cwd=folder).strip()
    if told != f"vita-core {version}":
        raise ValueError(f"the wheel installs {told!r}, not vita-core {version}")
    run([vita, "--help"], cwd=folder)
    run([vita, "encode", "--weights", TOWER, PICTURE, "--out", out, "--device", "cpu"], cwd=folder)
    code = "import sys, numpy, safetensors.numpy as s; print(*[v.shape for v in s.load_file(sys.argv[1]).values()])"
    shapes = run([bin_folder / "python", "-c", code, out], cwd=folder).strip()
    if shapes != "(1, 4, 16)":
        raise ValueError(f"the features have shapes {shapes}, not (1, 4, 16)")


def run(command: Sequence[str | Path], cwd: Path = ROOT, **environment: str) -> str:
    """Run a command and return what it printed to stdout. Raises ValueError with what it printed if it fails."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ValueError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def release() -> None:
    """Do everything, and print a line for each step."""
    version = stated_version()
    print(f"version {version}, from pyproject.toml")
    if problems := changelog_problems((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version):
        raise ValueError("CHANGELOG.md: " + "; ".join(problems))
    shutil.rmtree(DIST, ignore_errors=True)
    for name, digest in built_twice(DIST).items():
        print(f"built twice, the same bytes: {digest}  {name}")
    run([BIN / "twine", "check", "--strict", *sorted(DIST.iterdir())])
    print("twine check: passed")
    venv.create(FRESH, clear=True, symlinks=True, with_pip=True)
    (wheel,) = DIST.glob("*.whl")
    run([ROOT / ".ci" / "install", FRESH, "--constraint", "constraints.txt", wheel])
    with tempfile.TemporaryDirectory() as folder:
        check_installed(FRESH / "bin", version, Path(folder))
    print("installed in a new environment: its help, and one encoded picture")
    sbom = DIST / f"vita_core-{version}.cdx.json"
    options = [
        "--output-reproducible",
        "--output-format",
        "JSON",
        "--pyproject",
        ROOT / "pyproject.toml",
        "--output-file",
        sbom,
    ]
    run([BIN / "cyclonedx-py", "environment", *options, FRESH / "bin" / "python"])
    print(f"SBOM: {sbom.name}")


if __name__ == "__main__":
    try:
        release()
    except ValueError as error:
        sys.exit(f"NOT ready: {error}")
