"""Chromium without a window, for the pages that the project writes. A pytest plugin."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
CHROMIUM += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    assert chromium, "no `chromium` on PATH; `make test-extras` installs Debian's package"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield opened
        opened.close()


@contextmanager
def window(browser: Browser, width: int, address: str, **options: Any) -> Iterator[Page]:
    """A window whose requests to other places than `address`, console errors and failed scripts make the test fail."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    opened = context.new_page()
    outside: list[str] = []
    wrong: list[str] = []
    opened.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else outside.append(asked.url))
    opened.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("response", lambda got: wrong.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    yield opened
    context.close()
    assert not outside
    assert not wrong


def fits(page: Page) -> bool:
    """Whether no part of the page is beside its window."""
    width = page.viewport_size["width"] if page.viewport_size else 0
    return bool(page.evaluate("document.documentElement.scrollWidth") <= width)
