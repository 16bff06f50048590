"""Real distributions in a second environment, which has none of its own but sees those of the first one."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SCRIPTS = {"vita": "vita_core", "pip": "pip", "pytest": "pytest"}


class Environment:
    """A virtual environment whose `.pth` file names every folder that this interpreter imports from."""

    def __init__(self, root: Path) -> None:
        venv.create(root, with_pip=False, symlinks=True)
        self.bin = root / "bin"
        (self.site,) = root.glob("lib/python*/site-packages")
        seen = [str(REPOSITORY), *(path for path in sys.path if path.endswith("site-packages"))]
        (self.site / "first.pth").write_text("\n".join(seen))
        for name, module in SCRIPTS.items():  # installed scripts would run in the first environment
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec "{self.bin / "python"}" -m {module} "$@"\n')
            script.chmod(0o755)

    def run(self, *command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command with the environment's scripts first on PATH, pip told to use no index and no isolation."""
        pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_QUIET": "1"}
        base = {key: value for key, value in os.environ.items() if not key.startswith("VITA_")}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [str(self.bin / str(command[0])), *map(str, command[1:])],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            timeout=600,
            env={**base, **pip, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        )

    def vita(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("vita", *arguments, **environment)

    def pip(self, *arguments: object) -> None:
        """The first environment's pip, installing into this one."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--quiet", "--python", self.bin / "python", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def install(self, *what: Path) -> None:
        self.pip("install", "--no-deps", "--no-build-isolation", "--no-index", *what)


def build_wheel(project: Path, out: Path) -> Path:
    """The wheel of a project, built as its author would."""
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", out, project], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def write_wheel(folder: Path, distribution: str, modules: Mapping[str, str], entry_points: str) -> Path:
    """A wheel of pure Python, version 1.0, written without a build: module name -> source, and entry_points.txt."""
    escaped = distribution.replace("-", "_")
    info = f"{escaped}-1.0.dist-info"
    files = {f"{module}.py": source for module, source in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = entry_points
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / f"{escaped}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel
