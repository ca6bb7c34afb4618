"""What reports are made of: small pictures, SVG by hand, and charts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_reports import CONF, photo, small_world

from detkit.evaluate.analysis import analyse
from detkit.evaluate.report import thumbnails
from detkit.evaluate.report.charts import confusion_chart, interval_bar
from detkit.evaluate.report.svg import Axes, corners, escaped, number, polyline, tag


def test_thumbnails_fit_their_room_and_keep_their_shape(tmp_path: Path) -> None:
    paths = {k: photo(tmp_path / f"{k}.jpg", k, (300, 150)) for k in range(6)}
    paths[7] = tmp_path / "missing.jpg"
    large = thumbnails.thumbnails(paths, 10**7)
    assert set(large) == set(range(6))
    assert {size for _, size in large.values()} == {(150, 300)}  # never enlarged
    room = sum(len(uri) for uri, _ in large.values()) // 4
    small = thumbnails.thumbnails(paths, room)
    assert sum(len(uri) for uri, _ in small.values()) <= room
    width, height = small[0][1]
    assert height == 2 * width < 300
    assert list(thumbnails.thumbnails(paths, len(small[0][0]) // 2)) in ([], [0])


def test_a_crop_says_what_it_shows(tmp_path: Path) -> None:
    part = thumbnails.crop(photo(tmp_path / "p.jpg", 0), (0, 0, 20, 20), 100)
    assert part is not None
    assert part[1] == (0, 0, 43, 43)  # 64 px around the middle of the box, cut at the photo's corner
    assert thumbnails.crop(tmp_path / "no.jpg", (0, 0, 20, 20), 100) is None


def test_svg_escapes_and_shortens() -> None:
    assert tag("text", "<&>", x=1.5, class_="a", text_anchor=None) == '<text x="1.5" class="a">&lt;&amp;&gt;</text>'
    assert tag("g", tag("rect", x=0)) == '<g><rect x="0"/></g>'
    assert tag("g", title='"') == '<g title="&quot;"/>'
    assert [number(v) for v in (1.0, -0.001, 0.126, 1234.5)] == ["1", "0", "0.13", "1234.5"]
    assert escaped(escaped("<")) == "&lt;"
    assert polyline([(0, 0), (1, float("nan")), (2, 2), (3, 3)]) == "M0 0M2 2L3 3"
    assert polyline(np.zeros((0, 2))) == ""
    assert corners([0, 0.5, 1, 1, 1], [0, 1, 2, 3, 4]) == ([0, 2, 4], [0, 1, 1])


def test_axes_put_values_in_their_place() -> None:
    axes = Axes((120, 100), left=10, right=10, top=20, bottom=30, y_range=(0, 2))
    assert (axes.x(0), axes.x(1), axes.y(0), axes.y(2)) == (10, 110, 70, 20)
    axes.bar(0.2, 0.4, 1, "bar")
    assert axes.marks[-1] == '<rect x="30" y="45" width="20" height="25" class="bar"/>'


def test_an_interval_has_its_band_and_an_undefined_figure_none() -> None:
    assert '<rect x="66" y="5.5" width="30.5" height="7" rx="3.5" class="band"/>' in interval_bar(0.6, 0.5, 0.75)
    assert "band" not in interval_bar(0.6, -1, -1)
    assert "circle" not in interval_bar(-1, -1, -1)
    worse, unsure = (interval_bar(-0.1, -0.2, high, reach=(-0.5, 0.5)) for high in (-0.05, 0.05))
    assert "band down" in worse
    assert 'class="band"' in unsure


def test_the_confusion_matrix_says_its_counts(tmp_path: Path) -> None:
    drawn = confusion_chart(analyse(*small_world(tmp_path / "photos"), conf=CONF).confusion).svg
    assert "cat taken for cat: 3 (75%)" in drawn
    assert "background taken for cat: 1 (50%)" in drawn
    assert "&lt;script&gt;docu" in drawn
