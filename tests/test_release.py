"""tools/release.py and tools/audit.py: what makes a release fail, and that an audit is green only if everything was audited."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY
from distributions import Environment

CHANGELOG = (
    "# Changelog\n\n## 0.1.0 (2026-01-31)\n\nThe first.\n\n### Added\n\nTowers\n\n- One\n  more\n\n### Fixed\n\n- It\n"
)
PINNED = {("numpy", "2.4.0"), ("pyyaml", "6.0.3")}
ROWS: list[dict[str, Any]] = [
    {"name": "numpy", "version": "2.4.0", "vulns": []},
    {"name": "PyYAML", "version": "6.0.3", "vulns": []},
]
UNREACHED = (
    "WARNING:pip_audit._cli:x\nERROR:pip_audit._cli:numpy: Dependency not found on PyPI and could not be audited"
)


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", REPOSITORY / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release, audit = tool("release"), tool("audit")


def printed(*rows: dict[str, Any]) -> str:
    return json.dumps({"dependencies": [*rows], "fixes": []})


# the version and the changelog --------------------------------------------------------------------------------------------


def test_the_version_stands_in_one_place() -> None:
    from vita_core import __version__

    assert release.stated_version() == __version__


@pytest.mark.parametrize(
    ("cited", "code", "message"),
    [
        ("version: 0.3.0\n", "", "CITATION.cff: version 0.3.0, but pyproject.toml has 0.2.0"),
        ("title: x\n", "", "CITATION.cff: version None"),
        ("version: 0.2.0\n", '__version__ = "0.2.0"\n', "module.py: writes a version of its own"),
    ],
)
def test_a_version_in_a_second_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cited: str, code: str, message: str
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    (tmp_path / "CITATION.cff").write_text(cited)
    (tmp_path / "vita_core").mkdir()
    (tmp_path / "vita_core" / "module.py").write_text(code)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=message):
        release.stated_version()


def test_our_changelog() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert release.changelog_problems(text, release.stated_version()) == []


@pytest.mark.parametrize(
    ("old", "new", "problems"),
    [
        ("", "", []),
        ("0.1.0 (2026-01-31)", "Unreleased", []),
        ("0.1.0 (2026-01-31)", "0.1.0 (unreleased)", []),
        ("0.1.0", "0.0.9", ["no section for 0.1.0"]),
        ("(2026-01-31)", "in January", ["heading: '0.1.0 in January'"]),
        ("### Fixed", "### Mended", ["section: 'Mended'"]),
        ("- It", "It is mended.", ["neither an entry nor a heading: 'It is mended.'"]),
    ],
)
def test_forms_of_a_changelog(old: str, new: str, problems: list[str]) -> None:
    assert release.changelog_problems(CHANGELOG.replace(old, new, 1), "0.1.0") == problems


# builds -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist and the wheel of this repository, built twice."""
    out = tmp_path_factory.mktemp("release") / "dist"
    made = release.built_twice(out)
    assert sorted(made) == sorted(file.name for file in out.iterdir())
    assert {Path(name).suffix for name in made} == {".whl", ".gz"}
    return out


@pytest.mark.extras
@pytest.mark.reliability(
    door="a release",
    fault="the wheel in a fresh environment",
    expected="it installs, and encodes a picture",
)
def test_the_wheel_of_a_release_works(dist: Path, environment: Environment, tmp_path: Path) -> None:
    (environment.site / "first.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages"))
    )  # without the sources, which the editable installation beside them names in a file of its own
    (wheel,) = dist.glob("*.whl")
    environment.install(wheel)
    release.check_installed(environment.bin, release.stated_version(), tmp_path)
    with pytest.raises(ValueError, match=r"the wheel installs 'vita-core .*', not vita-core 9\.9\.9"):
        release.check_installed(environment.bin, "9.9.9", tmp_path)


@pytest.mark.slow
@pytest.mark.reliability(
    door="a release",
    fault="two builds that differ",
    expected="an error",
)
def test_builds_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def sources(target: Path) -> Path:
        target.mkdir(parents=True)
        calls.append(target)
        (target / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            '[project]\nname = "made"\nversion = "1"\n[tool.hatch.build.targets.wheel]\nonly-include = ["made.py"]\n'
        )
        (target / "made.py").write_text(f"place = {len(calls)}\n")
        return target

    monkeypatch.setattr(release, "sources", sources)
    with pytest.raises(ValueError, match="two builds differ"):
        release.built_twice(tmp_path / "dist")


@pytest.mark.slow
def test_a_command_that_fails() -> None:
    with pytest.raises(ValueError, match=r"python\S* .* ended with 3: told"):
        release.run([sys.executable, "-c", "import sys; print('told'); sys.exit(3)"])


# audits -------------------------------------------------------------------------------------------------------------------


def test_what_is_pinned_is_audited(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nnumpy==2.4.0\nPyYAML[c]==6.0.3  # why\n\n")
    assert audit.pins(file) == PINNED
    assert {file.name for file in audit.FILES} >= {
        "constraints.txt",
        "constraints-lmms-eval.txt",
        "constraints-release.txt",
    }
    assert all(audit.pins(file) for file in audit.FILES)


@pytest.mark.parametrize(
    ("told", "code", "result", "number"),
    [
        (printed(*ROWS), 0, "2 packages", 0),
        (printed(ROWS[0], {**ROWS[1], "vulns": [{"id": "PYSEC-1"}]}), 1, "pyyaml 6.0.3: PYSEC-1", 3),
        (printed(ROWS[0]), 0, "1 of 2 packages were skipped: pyyaml 6.0.3", 2),
        (printed(ROWS[0], {"name": "pyyaml", "skip_reason": "not found"}), 0, "1 of 2 packages were skipped", 2),
        (printed(ROWS[0], {**ROWS[1], "version": "6.0.4"}), 0, "1 of 2 packages were skipped", 2),
        (printed(), 0, "2 of 2 packages were skipped", 2),
        (printed(*ROWS), 1, "pip-audit ended with 1, but printed 0 vulnerabilities", 2),
        ("", 1, "numpy: Dependency not found on PyPI and could not be audited", 2),
        ("", 0, "could not be audited", 2),
        ("[]", 0, "could not be audited", 2),
    ],
)
@pytest.mark.reliability(
    door="a release",
    fault="an audit that skipped a package, or got no answer",
    expected="NOT audited, and an exit code that is not 0",
)
def test_an_audit_is_green_only_if_everything_was_audited(told: str, code: int, result: str, number: int) -> None:
    found = audit.judged(PINNED, told, code, UNREACHED)
    assert found.code == number
    assert result in (found.not_audited or "; ".join(found.found) or f"{found.packages} packages")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "message", "number"),
    [
        (f"echo '{printed(*ROWS)}'", "constraints.txt: 2 packages audited: no known vulnerability", 0),
        ("echo 'ERROR: no route to the service' >&2; exit 1", "constraints.txt: NOT audited: ERROR: no route", 2),
        ("exit 1", "constraints.txt: NOT audited: pip-audit ended with 1 and said nothing", 2),
        (None, "constraints.txt: NOT audited: pip-audit did not run", 2),
    ],
)
def test_what_the_audit_prints(
    script: str | None,
    message: str,
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, program = tmp_path / "constraints.txt", tmp_path / "pip-audit"
    file.write_text("numpy==2.4.0\npyyaml==6.0.3\n")
    if script is not None:
        program.write_text(f'#!/bin/sh\ncase "$*" in *--strict*) {script};; esac\n')
        program.chmod(0o755)
    monkeypatch.setattr(audit, "FILES", [file])
    monkeypatch.setattr(audit.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert ended.value.code == number
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"), [("numpy>=2\n", "not a pin: 'numpy>=2'"), ("# no\n", "it pins nothing")]
)
def test_files_that_cannot_be_audited(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "constraints.txt").write_text(content)
    monkeypatch.setattr(audit, "FILES", [tmp_path / "constraints.txt"])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert ended.value.code == 2
    assert f"NOT audited: {message}" in capsys.readouterr().out


def test_no_file_to_audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(audit, "FILES", [])
    with pytest.raises(SystemExit) as ended:
        audit.main()
    assert (ended.value.code, capsys.readouterr().out) == (2, "NOT audited: there is no file of constraints\n")
