"""The page of a comparison says what its files say, needs nothing else, and shows the texts of strangers as texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_comparison import config, failed, write_comparison

from vita_core.comparing.page import write_page
from vita_core.errors import VitaError

UNEQUAL = "images: 224 pixels, but 196 in one"
FIGURES = re.compile(r'<script type="application/json" id="figures">(.*?)</script>', re.DOTALL)


class Read(HTMLParser):
    """What a browser would make of a page: its elements, the texts in them, and the bodies of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within == "script":
            self.scripts[-1] += data
        elif self.within != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def written(folder: Path) -> tuple[str, Read]:
    html = write_page(folder).read_text(encoding="utf-8")
    return html, Read(html)


def figures(html: str) -> dict[str, Any]:
    found = FIGURES.search(html)
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def sections(html: str) -> dict[str, str]:
    """The texts of the sections by their id."""
    parts = re.findall(r'<section id="(\w+)">(.*?)</section>', html, re.DOTALL)
    return {name: Read(part).text for name, part in parts}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    one, two, three = config("one", 0), config("two", 1, [UNEQUAL]), config("three", 2)
    write_comparison(folder, [three, one, two, failed("four", "out of memory. Try: `--set device=cuda`")])
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "comparison.html").read_text(encoding="utf-8")


def test_the_verdict_is_on_top_and_then_how_it_was_measured(html: str) -> None:
    text = Read(html).text
    order = [
        "Take three: it names 11.0 points more",
        "four failed: out of memory",
        "on the same 1,960 pictures in the same order for 150 steps, with 4 visual tokens a picture, with seeds 0, 1, 2; "
        "its learning rate was chosen on 420 other pictures",
        "scored on 420 held-out pictures (417 groups",
        "84.0%",
    ]
    places = [text.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)


def test_a_row_of_the_results_has_every_number_and_the_best_config_is_first(html: str) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", html[html.index('data-table="results"') :], re.DOTALL)
    texts = [Read(row).text for row in rows[1:5]]
    assert [text.split()[0] for text in texts] == ["one", "two", "three", "four"]
    assert texts[0] == (
        "one torchvision mobilenet_v2.pth 84.0% 79.5% to 88.5% 1.2% 0.3% to 2.1% 0.610 0.530 to 0.690 4 of 49 "
        "2.22 M + 1.07 M 0.61 19 18.2 to 22 2.00 GB 1,261 s 1,240 to 1,301"
    )
    assert texts[3] == "four transformers vit-s14 failed: out of memory. Try: `--set device=cuda`"
    assert 'data-key="0.84"' in rows[1], "sorted by numbers, not by texts"


def test_differences_say_which_are_shown_and_how_many_pictures_would_do(html: str) -> None:
    text = sections(html)["differences"]
    assert "one minus two † pictures named +11.0 points +6.0 to +16.0 0.42 0.21 not shown 1,240" in text
    assert "one minus two † held-out loss -0.23 -0.32 to -0.14 0.0061 0.0004 one" in text


def test_what_is_unequal_or_failed_is_marked_in_every_section(html: str) -> None:
    found = sections(html)
    assert set(found) == {"results", "intervals", "differences", "curves", "cost", "likeness", "pictures", "settings"}
    for name, text in found.items():
        assert f"† not on equal terms : two: {UNEQUAL}." in text, name
        assert "Failed, and in no number : four." in text, name
    drawn = json.dumps(figures(html), ensure_ascii=False)
    assert drawn.count("two †") >= 6
    assert "four" not in drawn


def test_answers_stand_beside_their_picture_and_right_ones_are_marked_by_a_word(html: str, folder: Path) -> None:
    comparison = json.loads((folder / "comparison.json").read_text())
    right = [named for row in comparison["examples"] for named in row["named"].values()]
    page = Read(html)
    assert page.text.count("✓ named") == sum(right)
    assert page.text.count("✗ not named") == len(right) - sum(right)
    alts = [image["alt"] for image in page.all("img")]
    assert alts.count("Token map of two †") == 2
    assert "Held-out picture 2: a red cup" in alts
    shown = page.all("img")[0]["src"]
    assert shown is not None
    assert base64.b64decode(shown.removeprefix("data:image/jpeg;base64,")) == (folder / "page" / "0.jpg").read_bytes()


def test_the_charts_hold_the_numbers(html: str) -> None:
    drawn = figures(html)
    assert sorted(drawn) == sorted(
        [
            *("intervals-named", "intervals-loss", "differences-named", "differences-loss"),
            *("curves-loss", "cost-time", "likeness-towers", "likeness-layers-0"),
        ]
    )
    named, loss = drawn["intervals-named"], drawn["intervals-loss"]
    assert [row["text"] for row in named["layout"]["annotations"]] == ["one", "two †", "three"]
    assert [row["text"] for row in loss["layout"]["annotations"]] == ["one", "two †", "three"], "lowest first"
    mark = named["data"][0]
    assert mark["x"] == [0.84]
    assert mark["error_x"]["array"] == pytest.approx([0.045])
    assert named["data"][2]["x"] == [0.012], "with the captions shuffled"
    symbols = [trace["marker"]["symbol"] for trace in drawn["differences-named"]["data"]]
    assert symbols[0].endswith("-open"), "not shown after the correction"
    assert not symbols[1].endswith("-open")
    band, line = drawn["curves-loss"]["data"][:2]
    assert len(band["x"]) == 2 * len(line["x"]) == 60
    assert {trace["line"]["dash"] for trace in drawn["curves-loss"]["data"][1::2]} == {"solid", "dash", "dot"}
    assert drawn["likeness-towers"]["data"][0]["z"][0][1] == 0.88
    ids = {attributes.get("id") for attributes in Read(html).all("div")}
    assert set(drawn) <= ids


def test_every_colour_of_the_charts_is_one_of_both_themes(html: str, folder: Path) -> None:
    style = html[html.index("<style>") : html.index("</style>")]
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    for name in set(re.findall(r"var\((--[\w-]+)\)", json.dumps(figures(html)))) - {"--font"}:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_nothing_outside_is_loaded_and_only_the_pages_scripts_run(html: str) -> None:
    page = Read(html)
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#")), (tag, attributes)
    policy = next(str(one["content"]) for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert len(page.scripts) == 3
    for script in page.scripts[1:]:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_equal_files_give_equal_bytes(folder: Path) -> None:
    first = (folder / "comparison.html").read_bytes()
    assert write_page(folder).read_bytes() == first


def test_the_settings_say_how_to_repeat_it(html: str) -> None:
    text = sections(html)["settings"]
    assert "vita compare three.yaml one.yaml two.yaml --data photos --seeds 3 --out DIR" in text
    assert "two †: transformers vit-s14, 384 channels, learning rate 0.001 device: cpu tower: weights: vit-s14" in text
    assert "5d1f" * 16 in text


ATTACKS = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "{{ 7 * 7 }} & %{x}",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_texts_of_strangers_are_shown_as_texts(tmp_path: Path, attack: str) -> None:
    plain, marked = config("plain", 0), config(attack, 1, [attack])
    marked |= {"tower": attack, "weights": attack, "config": {"tower": {"weights": attack}}}
    comparison = write_comparison(
        tmp_path, [plain, marked, failed(f"failed {attack}", attack)], [attack], answer=attack
    )
    comparison |= {"verdict": f"Take {attack}.", "notes": [attack]}
    comparison["data"]["name"] = attack
    comparison["settings"]["command"] = attack
    comparison["examples"][0]["image"] = attack
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    html, page = written(tmp_path)
    assert len(page.scripts) == 3
    assert "alert" not in page.scripts[1] + page.scripts[2]
    assert not page.all("svg")
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(attack) > 10
    texts = json.dumps([row["text"] for row in figures(html)["intervals-named"]["layout"]["annotations"]])
    assert "<" not in texts, "plotly would read it as a tag"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "missing.jpg", ".."])
def test_a_picture_is_only_taken_from_the_folder_of_the_page(tmp_path: Path, name: str) -> None:
    comparison = write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    (tmp_path / "secret.jpg").write_bytes(b"a secret")
    comparison["examples"][0] |= {"thumbnail": name, "maps": {"one": name}}
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    html, page = written(tmp_path)
    assert base64.b64encode(b"a secret").decode() not in html
    assert len(page.all("img")) == 3, "those of the second picture"


def test_the_page_is_written_from_comparison_json_alone(tmp_path: Path) -> None:
    write_comparison(tmp_path / "whole", [config("one", 0), config("two", 1)])
    (tmp_path / "comparison.json").write_bytes((tmp_path / "whole" / "comparison.json").read_bytes())
    html, page = written(tmp_path)
    assert not page.all("img")
    assert "cost-time" not in figures(html)
    assert "84.0%" in page.text


@pytest.mark.parametrize("finished", [0, 1])
def test_configs_that_failed_leave_a_page(tmp_path: Path, finished: int) -> None:
    alive = [config("one", 0)][:finished]
    write_comparison(tmp_path, [*alive, failed("two", "no weights"), failed("three", "no weights")])
    html, page = written(tmp_path)
    assert "Failed, and in no number : two, three." in page.text
    assert ("intervals-named" in figures(html)) == bool(finished)
    assert "differences-named" not in figures(html)


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(
        VitaError, match=r"needs jinja2, which cannot be imported: .* Try: `pip install 'vita-core\[compare\]'`"
    ):
        write_page(folder)


def test_a_comparison_of_an_earlier_version_is_shown_without_what_it_lacks(tmp_path: Path) -> None:
    found = write_comparison(tmp_path, [config("one", 0), config("two", 1)])
    del found["settings"]["command"], found["configs"][0]["config"]
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    _, page = written(tmp_path)
    assert "An earlier version made this comparison, and did not write the config." in page.text
    assert "vita compare" not in page.text
    del found["settings"]["seeds"]
    lacking, without = json.dumps(found), json.dumps({key: found[key] for key in found if key != "pairs"})
    for broken, told in (
        (without, "not a comparison that can be shown: 'pairs' is missing"),
        (lacking, "not a comparison that can be shown: .*has no attribute 'seeds'"),
        ("{", "comparison.json:1:2: not valid JSON"),
    ):
        (tmp_path / "comparison.json").write_text(broken)
        with pytest.raises(VitaError, match=told):
            write_page(tmp_path)
