"""The page of a comparison in Chromium: it fits a phone, sorts, filters, draws, follows the theme, and prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsers import fits, window
from made_comparison import config, failed, write_comparison

from vita_core.comparing.page import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.extras
NAMES = ["vit-s14", "mobilenetv2", "fusion-of-a-mobilenet-and-a-vision-transformer", "2026-11", "select_layer=-1,-2"]
ATTACK = (
    "<b onclick='said()'>loud</b><a href=\"javascript:alert(1)\">click</a></script><script>alert(1)</script>&lt;i&gt;"
)
FIRST_CELLS = "rows => rows.map(row => row.cells[0].firstChild.textContent.trim())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    alive = [config(name, place, ["of 224 pixels"] if place == 1 else []) for place, name in enumerate(NAMES)]
    captions = ["a cat", "a cup", "a photo of something whose name is very long", "a rocket"]
    write_comparison(folder, [*alive[::-1], failed("eva", "out of memory")], captions)
    write_page(folder)
    return folder


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids="{0[0]}-{0[1]}".format)
def page(request: pytest.FixtureRequest, browser: Browser, folder: Path) -> Iterator[Page]:
    width, scheme = request.param
    yield from opened(browser, folder, width, color_scheme=scheme)


@pytest.fixture
def desk(browser: Browser, folder: Path) -> Iterator[Page]:
    yield from opened(browser, folder, 1280)


def opened(browser: Browser, folder: Path, width: int, **options: Any) -> Iterator[Page]:
    address = (folder / "comparison.html").as_uri()
    with window(browser, width, address, **options) as found:
        found.goto(address)
        found.locator(".chart .main-svg").first.wait_for()
        yield found


def names(page: Page, table: str = "results") -> list[str]:
    shown: list[str] = page.eval_on_selector_all(f"table[data-table={table}] tbody tr:not([hidden])", FIRST_CELLS)
    return shown


def head(page: Page, name: str, table: str = "results") -> Locator:
    return page.locator(f"table[data-table={table}] thead th", has=page.get_by_role("button", name=name, exact=True))


def test_the_page_fits_its_window_and_all_of_it_is_drawn(page: Page, tmp_path: Path) -> None:
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert fits(page)
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    figures = page.locator("#figures").text_content() or ""
    assert (
        page.locator(".chart").count()
        == page.locator(".chart .main-svg:first-child").count()
        == len(json.loads(figures))
    )
    beside = "charts => charts.filter(one => one.querySelector('.main-svg').clientWidth > one.parentElement.clientWidth).length"
    assert page.eval_on_selector_all(".chart", beside) == 0


def test_colours_follow_the_theme_while_the_page_is_open(desk: Page) -> None:
    def looks() -> tuple[str, str, str]:
        back, ink = (desk.evaluate(f"getComputedStyle(document.body).{key}") for key in ("backgroundColor", "color"))
        return back, ink, desk.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")

    light = looks()
    desk.emulate_media(color_scheme="dark")
    desk.wait_for_function(
        "fill => getComputedStyle(document.querySelector('.xtick text')).fill !== fill", arg=light[2]
    )
    dark = looks()
    assert light == ("rgb(246, 247, 249)", "rgb(27, 31, 39)", "rgb(27, 31, 39)")
    assert dark == ("rgb(18, 21, 26)", "rgb(230, 233, 238)", "rgb(230, 233, 238)")


def test_a_click_on_a_head_sorts_and_what_failed_stays_last(desk: Page) -> None:
    best = [f"{name} †" if name == "mobilenetv2" else name for name in NAMES]
    assert names(desk) == [*best, "eva"]
    assert head(desk, "pictures named").get_attribute("aria-sort") == "descending"
    desk.get_by_role("button", name="pictures named", exact=True).click()
    assert names(desk) == [*best[::-1], "eva"]
    desk.get_by_role("button", name="held-out loss", exact=True).click()
    assert names(desk) == [*best, "eva"]
    assert head(desk, "held-out loss").get_attribute("aria-sort") == "ascending"
    assert head(desk, "pictures named").get_attribute("aria-sort") is None
    desk.get_by_role("button", name="ms a picture").click()
    assert names(desk) == [*best[::-1], "eva"], "9.5, 19, ...: by number"


def test_the_keyboard_sorts_too_and_a_screen_reader_is_told(desk: Page) -> None:
    desk.keyboard.press("Tab")
    assert desk.evaluate("document.activeElement.textContent") == "Skip to the results"
    desk.get_by_role("button", name="config", exact=True).first.focus()
    desk.keyboard.press("Enter")
    assert names(desk)[0] == "2026-11"
    assert desk.get_by_role("status").last.text_content() == "sorted by config, ascending"
    desk.keyboard.press("Space")
    assert names(desk)[0] == "vit-s14"
    region = desk.get_by_role("region", name="The configs. Best first")
    assert region.get_attribute("tabindex") == "0", "a keyboard can scroll it"


def test_a_filter_hides_the_other_rows(desk: Page) -> None:
    field = desk.locator("input[data-filter=results]")
    assert field.get_attribute("type") == "search"
    field.fill("TORCHVISION  fusion")
    assert names(desk) == [NAMES[2]]
    assert desk.locator("#table-results output").text_content() == "1 of 6 rows"
    field.fill("")
    assert len(names(desk)) == 6
    desk.get_by_label("Filter").nth(1).fill("held-out vit-s14")
    assert len(names(desk, "differences")) == 4


def test_every_chart_and_table_has_a_name_for_a_screen_reader(desk: Page) -> None:
    for chart in desk.locator("[role=img], img").all():
        name = chart.get_attribute("aria-label") or chart.get_attribute("alt")
        assert name
        assert len(name) > 10
    for table in desk.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
    assert desk.locator("h1").count() == 1


def test_a_chart_is_saved(desk: Page, tmp_path: Path) -> None:
    with desk.expect_download() as download:
        desk.get_by_role("button", name="Save as SVG: Pictures named, with 95% intervals").click()
    assert download.value.suggested_filename == "intervals-named.svg"
    download.value.save_as(tmp_path / "chart.svg")
    assert "<svg" in (tmp_path / "chart.svg").read_text()


def test_the_page_prints_in_light_with_what_was_folded(desk: Page, tmp_path: Path) -> None:
    desk.emulate_media(media="print", color_scheme="dark")
    assert desk.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 39)"
    desk.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert desk.locator("details:not([open])").count() == 0
    desk.evaluate("dispatchEvent(new Event('afterprint'))")
    assert desk.locator("details[open]").count() == 0
    desk.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000


def test_no_text_of_a_stranger_becomes_an_element(browser: Browser, tmp_path: Path) -> None:
    write_comparison(
        tmp_path, [config(ATTACK, 0), config(f"2 {ATTACK}", 1, [ATTACK]), failed(f"3 {ATTACK}", ATTACK)], [ATTACK]
    )
    write_page(tmp_path)
    for page in opened(browser, tmp_path, 390):
        assert fits(page)
        assert page.locator("script").count() == 3
        assert page.locator("[onclick], a[href^=javascript], a[*|href^=javascript]").count() == 0
        shown = page.locator("#intervals-named .annotation-text").all_text_contents()
        cut = f"{ATTACK[:43]}…"
        assert shown[0] == cut
        assert page.locator("#curves-loss .legendtext").first.text_content() == cut
