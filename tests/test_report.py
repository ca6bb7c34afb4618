"""Reports: what became of each box, hostile names, one file of bounded size that refers to nothing, and odd data."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from small_reports import (
    CAT,
    CONF,
    HOSTILE_FILE,
    MISSED,
    OFF,
    RIGHT,
    SCRIPT,
    WRONG,
    found,
    photo,
    report,
    small_world,
    truth,
)
from test_cli_eval import make_data

from detkit.cli import main
from detkit.data.dataset import Dataset, Sample
from detkit.data.formats import read
from detkit.detections import Detections
from detkit.errors import ExitCode, MissingExtraError, RunError
from detkit.evaluate.analysis import analyse
from detkit.evaluate.coco import results_list
from detkit.evaluate.compare import compare
from detkit.evaluate.overlaps import find_overlaps
from detkit.evaluate.report import comparison, evaluation, page, write_comparison
from detkit.evaluate.report.gallery import Mark, photos_of, words


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        (self.scripts if self._in_script else self.words).append(data)

    def having(self, class_: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.found if class_ in (a.get("class") or "").split()]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Dataset, list[Detections]]:
    return small_world(tmp_path / "photos")


def copies(dataset: Dataset, boxes: list[Detections], times: int) -> tuple[Dataset, list[Detections]]:
    """The same photos so many times, under other names."""
    samples = [s for n in range(times) for s in dataset.samples]
    samples = [
        Sample(f"{k}-{s.name}", s.image_path, s.truth, k + 1, label_file=s.label_file) for k, s in enumerate(samples)
    ]
    return Dataset("toy", dataset.class_names, tuple(samples), dataset.source, "coco", "val", (1, 2)), boxes * times


def test_what_became_of_each_box(world: tuple[Dataset, list[Detections]]) -> None:
    photos = photos_of(find_overlaps(*world), CONF)
    assert [p.position for p in photos] == [1, 0, 2, 3, 4]  # a confident false alarm less than two missed objects
    assert [round(p.error, 6) for p in photos] == [2.7, 0.8, 0, 0, 0]
    told = {p.position: [(m.kind, m.label, m.box_xyxy, m.error) for m in p.marks] for p in photos}
    assert told[0] == [("truth", 0, RIGHT, ""), ("tp", 0, RIGHT, ""), ("fp", 1, WRONG, "background")]
    assert told[1] == [
        ("miss", 0, RIGHT, "localization"),
        ("miss", 1, MISSED, "missed"),
        ("fp", 0, OFF, "localization"),
    ]
    assert told[3] == [
        ("truth", 0, RIGHT, ""),
        ("truth", 1, (100, 0, 200, 120), ""),
        ("neither", 1, WRONG, ""),
        ("tp", 0, RIGHT, ""),
    ]
    unseen = next(m for m in photos[0].marks if m.kind == "miss" and m.label == 1)
    assert words(unseen, world[0].class_names) == f"{SCRIPT}: missed, found from score 0.30"
    alarm = Mark("fp", 0, OFF, 0.7, "localization")
    assert words(alarm, [CAT]) == "cat 0.70: false positive, localization: right class, box off: IoU 0.1 to 0.5"


def test_counts_agree_with_the_analysis(world: tuple[Dataset, list[Detections]]) -> None:
    photos = photos_of(find_overlaps(*world), CONF)
    analysis = analyse(*world, conf=CONF)
    shown = {each.kind: each.shown for each in (*analysis.errors.types, *analysis.errors.totals)}
    assert shown["false positive"] == sum(p.count("fp") for p in photos) == 2
    assert shown["false negative"] == sum(p.count("miss") for p in photos) == 2
    errors = [m.error for p in photos for m in p.marks if m.kind == "fp"]
    assert {kind: errors.count(kind) for kind in set(errors)} == {k: shown[k] for k in set(errors)}
    assert shown["missed"] == sum(m.error == "missed" for p in photos for m in p.marks)
    assert [(w.position, round(w.error, 6)) for w in analysis.worst] == [(1, 2.7), (0, 0.8)]


def test_the_page(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    text = report(tmp_path / "r.html", *world, model="street.onnx", engine="onnx")
    elements = Elements(text)
    said = " ".join(elements.words)
    for words_ in ("street.onnx on toy, val", "5 photos", "6 labelled boxes", "boxes by street.onnx on onnx"):
        assert words_ in said
    assert "(1 labelled) counts neither way" in said
    assert "finds 3 of 5 objects (60%)" in said
    assert "Of 5 boxes shown 60% are right; 2 false alarms." in said
    assert len(elements.having("card")) == 5
    assert len([a for t, a in elements.found if t == "img"]) == 4 + 2  # one is not readable, two are among the worst
    assert "no picture" in said
    assert all(a["loading"] == "lazy" for t, a in elements.found if t == "img")
    tables = [t for t, _ in elements.found if t == "table"]
    assert len(tables) == 6
    assert text == report(tmp_path / "again.html", *world, model="street.onnx", engine="onnx")


def test_a_box_lies_where_the_photo_has_it(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    text = report(tmp_path / "r.html", *world)
    card = text[text.index('id="photo-0"') :]
    assert 'viewBox="0 0 200 120"' in card[: card.index("</figure>")]
    alarm = card[card.index('class="b fp"') - 1 :]
    assert '<path d="M110 30H150V90H110z"/>' in alarm[: alarm.index("</g>")]
    assert 'data-e="background"' in alarm[: alarm.index(">")]


def test_names_are_text_whatever_they_hold(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    text = report(tmp_path / "r.html", *world, model="<b>m</b>")
    elements = Elements(text)
    own = (resources.files("detkit.evaluate.report") / "templates" / "gallery.js").read_text("utf-8")
    assert elements.scripts == [own]
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    names = [a["data-name"] for a in elements.having("card")]
    assert HOSTILE_FILE in names
    assert SCRIPT in " ".join(elements.words)
    assert "<b>m</b>" in " ".join(elements.words)


def references(text: str) -> list[str]:
    return [v or "" for _, a in Elements(text).found for k, v in a.items() if k in ("src", "href", "srcset", "action")]


def test_nothing_is_fetched(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    text = report(tmp_path / "r.html", *world)
    assert references(text)
    assert all(each.startswith(("#", "data:")) for each in references(text))
    assert not re.search(r"url\(|@import|https?://", text)
    policies = [a["content"] or "" for _, a in Elements(text).found if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policies[0]


def test_the_page_stays_below_its_limit(
    world: tuple[Dataset, list[Detections]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, boxes = copies(*world, 12)
    generous = report(tmp_path / "a.html", dataset, boxes)
    monkeypatch.setattr(evaluation, "SUSPECTS", 1)
    for limit, pictures in ((1_000_000, 48), (250_000, 5)):
        assert len(generous) > limit
        monkeypatch.setattr(page, "MAX_BYTES", limit)
        narrow = report(tmp_path / "b.html", dataset, boxes)
        assert 0.6 * limit < len(narrow.encode()) <= limit
        elements = Elements(narrow)
        assert len(elements.having("card")) == 60
        assert len([tag for tag, _ in elements.found if tag == "img"]) >= pictures


def test_of_many_photos_the_worst_are_shown(
    world: tuple[Dataset, list[Detections]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MAX_PHOTOS", 2)
    text = report(tmp_path / "r.html", *world)
    elements = Elements(text)
    assert [a["id"] for a in elements.having("card")] == ["photo-1", "photo-0"]
    targets = {a["href"] for t, a in elements.found if t == "a" and (a.get("href") or "").startswith("#photo")}
    assert targets == {"#photo-1", "#photo-0"}  # no link to what is not there
    assert "The 2 worst of 5 photos" in text
    monkeypatch.setattr(evaluation, "MAX_PHOTOS", 500)
    monkeypatch.setattr(evaluation, "TEXT_BYTES", 3_000)  # many boxes: as many photos as fit
    assert 0 < len(Elements(report(tmp_path / "r.html", *world)).having("card")) < 5


def test_odd_data(tmp_path: Path) -> None:
    path = photo(tmp_path / "p.jpg", 0)
    one = Sample("p.jpg", path, truth(), 1)
    empty = Dataset("empty", (CAT,), (one,), tmp_path, "coco", "", (1,))
    text = report(tmp_path / "r.html", empty, [found()])
    assert "Nothing is wrong on any photo." in text
    assert "Evaluation on empty" in text
    report(tmp_path / "r.html", empty, [found((*WRONG, 0, 0.9))])
    names = tuple(f"class {k}" for k in range(60))
    truths = truth(*((*RIGHT, k) for k in range(60)))
    many = Dataset("many", names, (Sample("p.jpg", path, truths, 1),), tmp_path, "coco", "val", tuple(range(1, 61)))
    boxes = [found(*((*RIGHT, (k + 1) % 60, 0.9) for k in range(60)))]
    text = report(tmp_path / "r.html", many, boxes)
    assert "50 others" in text
    assert report(tmp_path / "r.html", many, boxes, conf=None)


def test_no_photos_at_all(tmp_path: Path) -> None:
    none = Dataset("none", (CAT,), (), tmp_path, "coco", "val", (1,))
    assert "All 0 photos" in report(tmp_path / "r.html", none, [])


def test_without_jinja2_one_line_says_so(
    world: tuple[Dataset, list[Detections]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"detkit-cv\[report\]") as caught:
        report(tmp_path / "r.html", *world)
    assert caught.value.exit_code == ExitCode.MISSING_EXTRA == 5
    assert not (tmp_path / "r.html").exists()


def test_a_folder_that_is_not_there(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        report(tmp_path / "no" / "r.html", *world)


def changed(boxes: list[Detections]) -> list[Detections]:
    """A second model: it loses the object of photo 0 with its false alarm, and finds one on photo 1."""
    return [found((*OFF, 1, 0.9)), found((*MISSED, 1, 0.9), (*OFF, 0, 0.7)), *boxes[2:]]


def test_two_models_side_by_side(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    dataset, boxes = world
    result = compare(dataset, boxes, changed(boxes), conf=CONF, draws=20)
    sides = ("<i>old</i>", "new")
    write_comparison(tmp_path / "c.html", dataset, boxes, changed(boxes), comparison=result, names=sides)
    text = (tmp_path / "c.html").read_text("utf-8")
    elements = Elements(text)
    assert [a["id"] for a in elements.having("card")] == ["photo-0", "photo-1"]  # the worse first
    assert [a["data-k"] for t, a in elements.found if t == "li" and "data-k" in a] == [
        "lost",
        "new_false",
        "gone_false",
        "found",
    ]
    assert "<i>old</i> on toy" not in text
    said = " ".join(elements.words)
    assert "2 photos flipped: B does worse on 1, better on 1." in said
    assert len(elements.scripts) == 1
    uses = [a["href"] for t, a in elements.found if t == "use"]
    assert uses == ["#picture-0", "#picture-1"]  # each photo is there once
    assert all(each.startswith(("#", "data:")) for each in references(text))
    flips, told = result.flips.photos[0].flips, []
    for side, found_ in enumerate((boxes, changed(boxes))):
        first = next(p for p in photos_of(find_overlaps(dataset, found_), CONF) if p.position == 0)
        marks = comparison._flagged(first, flips, dataset.class_names, side).marks
        told.append(sorted((m.kind, m.box_xyxy) for m in marks if m.flip))
    assert told == [[("fp", WRONG), ("tp", RIGHT)], [("fp", OFF), ("miss", RIGHT)]]


def test_equal_models_flip_nothing(world: tuple[Dataset, list[Detections]], tmp_path: Path) -> None:
    result = compare(*world, world[1], draws=20)
    write_comparison(tmp_path / "c.html", *world, world[1], comparison=result)
    assert "All 0 photos on which something changed" in (tmp_path / "c.html").read_text("utf-8")


def test_compare_writes_one_from_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    val = read(make_data(tmp_path / "data", ["red", "blue"] * 3), "val")
    full = [Detections(s.truth.size_hw, s.truth.boxes_xyxy, s.truth.labels, np.full(len(s.truth), 0.9)) for s in val]
    for name, boxes in (("old.json", full), ("new.json", [full[0][:0], *full[1:]])):
        (tmp_path / name).write_text(json.dumps(results_list(val, boxes)))

    def run(target: Path) -> tuple[int, str]:
        files = [str(tmp_path / name) for name in ("old.json", "new.json")]
        options = ["--data", str(tmp_path / "data"), "--report", str(target)]
        monkeypatch.setattr("sys.argv", ["detkit", "compare", *files, *options])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), capsys.readouterr().err

    code, err = run(tmp_path / "c.html")
    assert code == 0, err
    assert f"wrote {tmp_path / 'c.html'}" in err
    text = (tmp_path / "c.html").read_text("utf-8")
    assert "old.json and new.json on data" in text
    assert "1 lost that A finds" in text
    assert run(tmp_path / "old.json")[0] == ExitCode.USAGE
    assert run(tmp_path / "no" / "c.html")[0] == ExitCode.USAGE
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, err = run(tmp_path / "d.html")
    assert (code, len(err.splitlines())) == (ExitCode.MISSING_EXTRA, 1)
