"""The documentation site: it builds without a warning, shows every page and public name, and asks no other host."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsers import fits, window
from conftest import REPOSITORY

import vita_core

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md"))
LOADED = [  # what a browser fetches without a click
    re.compile(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\"'\s>]+)"),
    re.compile(r"<link\b[^>]*\bhref=[\"']?((?:https?:)?//[^\"'\s>]+)"),
    re.compile(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make site` builds it."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def page_file(site: Path, name: str) -> Path:
    return site / "index.html" if name == "index" else site / name / "index.html"


@pytest.mark.slow
def test_every_page_is_built_listed_and_found_by_the_search(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    searched = {row["location"].partition("#")[0] for row in index["docs"]}
    menu = page_file(site, "index").read_text()
    for name in PAGES:
        assert page_file(site, name).is_file()
        assert name == "index" or {f"{name}/"} <= searched
        assert name == "index" or f'href="{name}/"' in menu
    assert not list(site.rglob("*.py"))


def test_every_public_name_has_its_place_on_the_api_page(site: Path) -> None:
    page = page_file(site, "api").read_text()
    shown = re.findall(r'<h3 id="vita_core\.(\w+)"', page)
    assert sorted(shown) == sorted(vita_core.__all__)
    assert "Shape.vit" in page  # members too
    assert "select_layer" in page


def test_no_file_of_the_site_loads_another_hosts(site: Path) -> None:
    outside = {
        (file.relative_to(site).as_posix(), url)
        for file in site.rglob("*")
        if file.suffix in (".html", ".css")
        for pattern in LOADED
        for url in pattern.findall(file.read_text())
    }
    assert not outside


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, on this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(params=[390, 1280], ids=["phone", "desk"])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    with window(browser, request.param, address) as opened:
        yield opened


@pytest.mark.extras
def test_a_search_leads_to_its_page(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(address, wait_until="networkidle")
    page.screenshot(path=tmp_path / "home.png")
    field = page.locator("input.md-search__input")
    if not field.is_visible():  # a narrow window has a magnifying glass in its place
        page.locator("header label[for=__search]").click()
    field.press_sequentially("moment_jitter")
    result = page.locator(".md-search-result__item a[href*='h=moment_jitter#']").first  # the section that has the word
    result.wait_for()
    page.wait_for_timeout(500)  # the list slides in
    page.screenshot(path=tmp_path / "search.png")
    result.click()
    page.locator("article mark", has_text="moment_jitter").first.wait_for()  # highlighted where the result led
    page.wait_for_timeout(500)
    page.screenshot(path=tmp_path / "found.png")
    assert page.url.startswith(f"{address}reference/")


@pytest.mark.extras
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window(page: Page, address: str, name: str, tmp_path: Path) -> None:
    page.goto(address + ("" if name == "index" else f"{name}/"), wait_until="networkidle")
    page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    assert page.locator("h1").count() == 1
    assert fits(page)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
