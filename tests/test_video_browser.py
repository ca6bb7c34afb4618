"""An annotated video plays in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_videos import copy, make_video

PAGE = '<video muted autoplay loop src="{}"></video>'
STATE = """() => {
    const film = document.querySelector("video");
    return {width: film.videoWidth, height: film.videoHeight, time: film.currentTime, seconds: film.duration,
            error: film.error ? film.error.message : null};
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


@pytest.mark.parametrize("case", ["small, odd sides", "turned, with sound", "variable rate"])
def test_it_plays(browser: Any, tmp_path: Path, case: str) -> None:
    source = {
        "small, odd sides": lambda: make_video(tmp_path / "a.mkv", 50, codec="ffv1", size_hw=(47, 63)),
        "turned, with sound": lambda: make_video(tmp_path / "a.mp4", 50, turn=(90, False), sounds=[("aac", 2.0)]),
        "variable rate": lambda: make_video(tmp_path / "a.mp4", [n * n for n in range(50)], options={"bf": "0"}),
    }[case]()
    copy(source, tmp_path / "out.mp4")
    (tmp_path / "page.html").write_text(PAGE.format("out.mp4"))
    page = browser.new_page()
    try:
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function(
            "() => { const film = document.querySelector('video'); return film.error || film.currentTime > 0.2; }",
            timeout=60_000,
        )
        state = page.evaluate(STATE)
    finally:
        page.close()
    assert state["error"] is None
    assert (state["width"], state["height"]) == ((48, 64) if case.startswith("turned") else (64, 48))
    assert state["time"] > 0.2
    assert state["seconds"] > 1.9
