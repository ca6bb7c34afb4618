"""Reports in a browser: filters, a box in its place on the photo, the enlarged view by keys, no request, no script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_reports import CONF, HOSTILE_FILE, SIZE_HW, WRONG, report, small_world
from test_report import changed

from detkit.evaluate.compare import compare
from detkit.evaluate.report import write_comparison
from detkit.images import read_image

SHOWN = '(e) => e.checkVisibility() && getComputedStyle(e).display !== "none"'
CORNERS = """(path) => {
    const box = path.getBBox(), at = path.getScreenCTM();
    return [at.a * box.x + at.e, at.d * box.y + at.f,
            at.a * (box.x + box.width) + at.e, at.d * (box.y + box.height) + at.f];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the dev extra")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report and a comparison."""
    folder = tmp_path_factory.mktemp("reports")
    dataset, boxes = small_world(folder / "photos")
    report(folder / "report.html", dataset, boxes)
    result = compare(dataset, boxes, changed(boxes), conf=CONF, draws=20)
    write_comparison(folder / "c.html", dataset, boxes, changed(boxes), comparison=result, names=("old", "new"))
    return folder / "report.html", folder / "c.html"


class Opened:
    """A page, and all that went wrong or out on the way."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.page = browser.new_page(**({"viewport": {"width": 1200, "height": 900}} | settings))
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.url = file.as_uri()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def visible(self, selector: str) -> list[str]:
        script = "(all) => all.filter(SHOWN).map((e) => e.id || e.dataset.k || e.className)".replace("SHOWN", SHOWN)
        return list(self.page.eval_on_selector_all(selector, script))

    def check(self) -> None:
        """Nothing but the file itself was asked for, and nobody complained."""
        assert [url for url in self.requests if not url.startswith("data:")] == [self.url]
        assert self.complaints == []


def test_filters_show_what_is_asked_for(browser: Any, files: tuple[Path, Path]) -> None:
    from playwright.sync_api import expect

    with Opened(browser, files[0]) as it:
        page = it.page
        matches = page.locator(".filters output")
        assert matches.inner_text() == "7 matches on 5 of 5 photos"
        page.locator("[name=k][value=tp]").uncheck()
        page.locator("[name=k][value=miss]").uncheck()
        assert matches.inner_text() == "2 matches on 2 of 5 photos"
        assert it.visible(".gallery .card") == ["photo-1", "photo-0"]
        page.locator("[name=low]").fill("0.75")
        assert it.visible(".gallery .card") == ["photo-0"]
        assert it.visible(".gallery .card [data-k]") == ["fp"]
        page.locator("[name=low]").fill("")
        page.locator("[name=e]").select_option("localization")
        assert it.visible(".gallery .card") == ["photo-1"]
        page.get_by_role("button", name="clear").click()
        expect(matches).to_have_text("7 matches on 5 of 5 photos")
        page.locator("[name=c]").select_option("1")
        assert matches.inner_text() == "2 matches on 2 of 5 photos"
        page.get_by_role("button", name="clear").click()
        page.locator("[name=q]").fill("ONERROR=alert")
        assert it.visible(".gallery .card") == ["photo-1"]
        page.locator("[name=q]").fill("")
        page.locator("[name=labels]").uncheck()
        assert it.visible(".gallery .truth") == []
        it.check()


def test_a_false_positive_is_drawn_where_it_is(browser: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    with Opened(browser, files[0]) as it:
        card = it.page.locator("#photo-0")
        card.scroll_into_view_if_needed()
        it.page.evaluate("() => document.querySelector('#photo-0 img').decode()")
        photo, corners = card.locator("img").bounding_box(), card.locator(".fp path").last.evaluate(CORNERS)
        height, width = SIZE_HW
        scale = photo["width"] / width
        assert photo["height"] == pytest.approx(height * scale, abs=1)
        origin = (photo["x"], photo["y"]) * 2
        wanted = [at + place * scale for at, place in zip(origin, WRONG, strict=True)]
        assert corners == pytest.approx(wanted, abs=1)
        it.page.screenshot(path=tmp_path / "shot.png")
        pixels = read_image(tmp_path / "shot.png").astype(int)
        middle = round((wanted[1] + wanted[3]) / 2)
        edge = pixels[middle, round(wanted[0]) - 2 : round(wanted[0]) + 3]
        orange = np.abs(edge - [255, 122, 46]).sum(axis=1)
        assert orange.min() < 60
        assert it.page.title() == "Evaluation on toy, val"  # no name has run as a script
        it.check()


def test_the_enlarged_view_by_keys(browser: Any, files: tuple[Path, Path]) -> None:
    with Opened(browser, files[0]) as it:
        page = it.page
        page.locator("#photo-1 .photo").focus()
        page.keyboard.press("Enter")
        viewer = page.locator("dialog.viewer")
        assert viewer.is_visible()
        assert HOSTILE_FILE in viewer.inner_text()
        page.keyboard.press("ArrowLeft")  # the first has none before it
        page.keyboard.press("ArrowRight")
        assert "zero.jpg" in viewer.inner_text()
        assert "2 of 5" in viewer.inner_text()
        assert not viewer.locator(".fp tspan").is_visible()
        viewer.get_by_label("names").check()
        assert viewer.locator(".fp tspan").is_visible()
        assert "0.80" in viewer.locator(".fp tspan").text_content()
        page.keyboard.press("Escape")
        assert not viewer.is_visible()
        assert page.evaluate("document.activeElement.closest('.card').id") == "photo-0"
        it.check()


def test_without_scripts_everything_is_there(browser: Any, files: tuple[Path, Path]) -> None:
    for file, cards in zip(files, (5, 2), strict=True):
        with Opened(browser, file, java_script_enabled=False) as it:
            assert not it.page.locator(".filters").is_visible()
            assert it.page.locator(".gallery .card").count() == cards
            assert all(it.page.locator(".gallery .card").nth(k).is_visible() for k in range(cards))
            assert it.page.get_by_text("AP75").first.is_visible()
            picture = it.page.locator("#photo-0 .fp path").last
            picture.scroll_into_view_if_needed()
            assert picture.bounding_box()["width"] > 20


@pytest.mark.parametrize("settings", [{"color_scheme": "dark"}, {"viewport": {"width": 400, "height": 800}}])
def test_dark_and_narrow(browser: Any, files: tuple[Path, Path], settings: dict[str, Any]) -> None:
    for file in files:
        with Opened(browser, file, **settings) as it:
            page = it.page
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide == 0
            ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
            brightness = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (ink, paper)]
            assert (brightness[0] > brightness[1]) == ("color_scheme" in settings)
            it.check()


def test_flips_are_filtered_and_both_sides_have_the_photo(browser: Any, files: tuple[Path, Path]) -> None:
    with Opened(browser, files[1]) as it:
        page = it.page
        assert page.locator(".filters output").inner_text() == "4 matches on 2 of 2 photos"
        for kind in ("lost", "new_false", "gone_false"):
            page.locator(f"[name=k][value={kind}]").uncheck()
        assert it.visible(".gallery .card") == ["photo-1"]
        page.locator("#photo-1").scroll_into_view_if_needed()
        sides = [page.locator("#photo-1 .under").nth(k).bounding_box() for k in range(2)]
        assert sides[0]["width"] == pytest.approx(sides[1]["width"], abs=1)
        shots = [page.locator("#photo-1 .half").nth(k).screenshot() for k in range(2)]
        assert min(map(len, shots)) > 0.5 * max(map(len, shots)) > 5_000  # noise on both sides
        page.locator("#photo-1 .photo").click()
        assert page.locator("dialog .under use").count() == 2
        it.check()
