"""What `vita doctor` looks at, each in a state that is made here."""

from __future__ import annotations

import http.server
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vita_core.diagnosing import cache as cache_module
from vita_core.diagnosing.cache import cache, disk
from vita_core.diagnosing.devices import probed
from vita_core.diagnosing.findings import Finding, cure_of, guarded
from vita_core.diagnosing.hub import hub
from vita_core.diagnosing.plugins import plugins
from vita_core.diagnosing.versions import libraries, module_of, needed, python
from vita_core.plugins.registry import registry, use_plugins
from vita_core.weights.assets import ASSETS, target


def told(findings: Iterator[Finding]) -> dict[str, tuple[str, str]]:
    return {found.name: (found.status, found.says) for found in findings}


def problems(findings: Iterator[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.status == "problem"]
    assert all(finding.cure for finding in found)
    return found


# versions ------------------------------------------------------------------------------------------------------------


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(head + "".join(f"{line}\n" for line in lines))


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of distributions in front of the installed ones."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_this_environment_has_versions_that_are_allowed() -> None:
    assert not problems(python())
    assert not problems(libraries())
    names = [requirement.name for requirement in needed()]
    assert {"torch", "transformers", "timm", "pillow"} < {*names}
    assert not {"pytest", "mypy", "av"} & {*names}


def test_every_library_is_found_under_the_name_by_which_it_is_imported() -> None:
    import importlib.util

    assert all(importlib.util.find_spec(module_of(requirement)) for requirement in needed())


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="libraries that are too old, missing or unreadable",
    expected="a finding with a cure",
)
def test_a_version_outside_the_bounds_a_missing_library_and_one_that_cannot_be_read(distributions: Path) -> None:
    lines = [
        "old>=2,<3",
        "new<3",
        "gone>=1",
        "odd>=1",
        "fine>=1",
        'tool>=1; extra == "dev"',
        'never; python_version < "3"',
    ]
    needs = [f"Requires-Dist: {line}" for line in lines]
    install(distributions, "vita-core", "9.0", "Requires-Python: >=3.99", "Provides-Extra: dev", *needs)
    for name, version in (("old", "1.9"), ("new", "3.1"), ("odd", "x.y"), ("fine", "1.0rc1")):
        install(distributions, name, version)
    assert [(found.name, found.says, found.cure) for found in problems(libraries())] == [
        ("old", "1.9, tested >=2,<3", "`pip install 'old>=2,<3'`"),
        ("new", "3.1, tested <3", "`pip install 'new<3'`"),
        ("gone", "not installed, needed >=1", "`pip install 'gone>=1'`"),
        ("odd", "x.y, tested >=1", "`pip install 'odd>=1'`"),
        ("fine", "1.0rc1, tested >=1", "`pip install 'fine>=1'`"),
    ]


def test_an_extra_is_compared_if_all_of_it_is_installed(distributions: Path) -> None:
    extras = ["video", "lora", "dev"]
    lines = [f"Provides-Extra: {extra}" for extra in extras]
    needs = ['old>=2; extra == "video"', 'gone; extra == "lora"', 'old>=2; extra == "lora"', 'older>=9; extra == "dev"']
    install(
        distributions, "vita-core", "9.0", "Requires-Python: >=3.11", *lines, *(f"Requires-Dist: {n}" for n in needs)
    )
    install(distributions, "old", "1.9")
    assert [(found.area, found.name, found.status) for found in libraries()] == [
        ("extra", "old", "problem"),
        ("extra", "lora", "ok"),
    ]


def test_python_outside_the_bounds(distributions: Path) -> None:
    named = "Classifier: Programming Language :: Python :: 3."
    install(distributions, "vita-core", "9.0", "Requires-Python: >=3.99", f"{named}99")
    [found] = problems(python())
    assert found.says.endswith("allowed >=3.99")
    assert found.cure == "an environment with Python 3.99"
    shutil.rmtree(distributions)
    install(distributions, "vita-core", "9.1", "Requires-Python: >=3.9", f"{named}9")
    assert [found.status for found in python()] == ["ok", "note"]


# plugins -------------------------------------------------------------------------------------------------------------


def test_plugins_that_work_and_plugins_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None
) -> None:
    (tmp_path / "broken_plugin.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    use_plugins(block=["clip", "siglib"], modules=["broken_plugin"])
    with pytest.warns(
        RuntimeWarning, match=r"--no-plugin: no such plugin: 'siglib'\. Did you mean 'siglip'\? Try: a name"
    ):
        registry()
    found = {finding.name: finding for finding in plugins()}
    [failed] = problems(plugins())
    assert failed.says.startswith("failed: ModuleNotFoundError: No module named 'no_such_library'")
    assert failed.cure.startswith("`pip install no_such_library`")
    assert failed.name == "broken_plugin of broken_plugin"
    assert len(found) == len(registry().plugins)
    [blocked] = [finding for finding in found.values() if finding.name.startswith("clip of ")]
    assert (blocked.status, blocked.says) == ("ok", "blocked: named in VITA_PLUGINS_BLOCK or --no-plugin")


# the cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def aged(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (time.time() - 7200,) * 2)
    return path


def test_a_cache_that_does_not_exist_is_no_problem(place: Path) -> None:
    found = told(cache())
    assert found[str(place)] == ("ok", "it does not exist yet")
    assert found["asset mobilenet-v2"] == (
        "ok",
        "not fetched; `vita assets mobilenet-v2` downloads it for the quickstart",
    )
    assert not place.exists()


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="an asset that is damaged",
    expected="a finding with a cure",
)
def test_an_outdated_and_a_damaged_asset(place: Path) -> None:
    for name in ASSETS:
        target(ASSETS[name]).mkdir(parents=True)
    (target(ASSETS["mobilenet-v2"]) / "asset.json").write_text('{"member_sha256": "0"}')
    found = problems(cache())
    told = {finding.name: finding.says.partition(":")[0] for finding in found}
    assert told == {f"asset {name}": "outdated" if name == "mobilenet-v2" else "damaged" for name in ASSETS}
    assert {finding.cure for finding in found} == {f"`vita assets {name}`" for name in ASSETS}


def test_what_ended_runs_left(place: Path) -> None:
    old = [aged(place / name) for name in (".x.partial.json", "features/.features-1.safetensors.partial", "work/tmp1")]
    assert len(problems(cache())) == 1
    (place / ".new.partial.bin").write_text("being written")
    [found] = problems(cache())
    assert (
        "left by runs that ended: .x.partial.json, features/.features-1.safetensors.partial, work/tmp1, 0.0 MB"
        in found.says
    )
    assert found.cure == f"`rm -r {' '.join(map(str, old))}`"
    for path in old:
        path.unlink()
    assert not problems(cache())


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="shards of features that are damaged",
    expected="a finding with a cure",
)
def test_damaged_shards_of_features(place: Path) -> None:
    (place / "features").mkdir(parents=True)
    good, bad = (place / "features" / f"features-{name}.safetensors" for name in ("good", "bad"))
    for shard in (good, bad):
        save_file({"a": np.ones(100, np.float32)}, shard)
    assert told(cache())["features"] == ("ok", "2 shards of kept features, 0 MB")
    bad.write_bytes(good.read_bytes()[:-7])
    [found] = problems(cache())
    assert found.says == "1 of 2 shards of kept features are damaged, such as features-bad.safetensors"
    assert found.cure == f"`rm -r {bad}`"


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="a cache that cannot be written",
    expected="a finding with a cure",
)
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITA_CACHE", str(tmp_path / "file"))
    [found, *_] = problems(cache())
    assert found.says == f"{tmp_path / 'file'} is not a directory that can be read and written"
    assert "VITA_CACHE" in found.cure


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="little space on the disk",
    expected="a finding with a cure",
)
def test_free_space(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/").free
    monkeypatch.setattr(cache_module, "LEAST_FREE", 0)
    assert not problems(disk())
    monkeypatch.setattr(cache_module, "LEAST_FREE", 1000 * free)
    assert "MB are free" in problems(disk())[0].says


# the hub -------------------------------------------------------------------------------------------------------------


class Answering(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """A server on this machine in the place of the hub."""
    from huggingface_hub import constants

    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{found.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found
        found.shutdown()


def test_the_hub_answers(server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = hub()
    assert (found.status, found.says) == ("ok", "it answers (status 200)")
    monkeypatch.setattr(Answering, "status", 503)
    [found] = problems(hub())
    assert found.says == "it answers with status 503"


@pytest.mark.reliability(
    door="`vita doctor`",
    fault="a hub that cannot be reached",
    expected="a finding with a cure",
)
def test_the_hub_cannot_be_reached(server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    server.shutdown()
    server.server_close()
    [found] = problems(hub())
    assert found.says.startswith("it cannot be reached: ConnectError")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    [found] = hub()
    assert (found.status, found.says) == ("note", "not asked: HF_HUB_OFFLINE is set")


# what fails while it is examined --------------------------------------------------------------------------------------


def test_a_broken_library_hides_nothing_else() -> None:
    def look() -> Iterator[Finding]:
        yield Finding("area", "first", "ok", "")
        raise ModuleNotFoundError("No module named 'pluggy.hooks'", name="pluggy.hooks")

    first, second = guarded("area", look)
    assert first.status == "ok"
    says = "it could not be examined: ModuleNotFoundError: No module named 'pluggy.hooks'"
    assert second == Finding("area", "area", "problem", says, "`pip install pluggy`")
    assert "--force-reinstall" in cure_of(ImportError("libfoo.so: cannot open shared object file"))

    def interrupted() -> Iterator[Finding]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        list(guarded("area", interrupted))


# other processes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.slow
@pytest.mark.reliability(
    door="`vita doctor`",
    fault="libraries that fail, crash or hang when they are imported",
    expected="a finding; all else is examined",
)
def test_libraries_that_fail_crash_or_hang_at_import(modules: Path) -> None:
    (modules / "prints.py").write_text("print('hello')\n")
    (modules / "fails.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    (modules / "leaves.py").write_text("raise SystemExit\n")
    (modules / "crashes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (modules / "hangs.py").write_text("import time\ntime.sleep(100)\n")
    steps: list[str] = []
    found = problems(probed(["prints", "fails", "leaves", "crashes", "json"], steps.append))
    assert [(finding.name, finding.says) for finding in found] == [
        ("import fails", "ImportError: libcudart.so.12: cannot open shared object file"),
        ("import leaves", "SystemExit"),
        ("import crashes", "the process ended when it was to import crashes: SIGSEGV"),
    ]
    assert steps == ["import prints", "import fails", "import leaves", "import crashes"]
    start = time.monotonic()
    [found_hanging] = problems(probed(["json", "hangs"], seconds=2))
    assert found_hanging.says == "no end after 2 seconds: import hangs"
    assert time.monotonic() - start < 30  # the process was killed
