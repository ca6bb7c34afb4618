"""Counting at lines: hand-made walks over, along, around and onto a line."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.detections import Detections
from detkit.errors import UsageError
from detkit.infer.crossings import CountLine, Crossings, feet_xy, parse_count_lines

SIZE_HW = (200, 300)
MIDDLE = "gate=100,100,200,100"  # from left to right: its right hand is below it, "in" is downwards
NAMES = ("person", "car")


def feet_at(*tracks: tuple[int, float, float], label: int = 0, size_hw: tuple[int, int] = SIZE_HW) -> Detections:
    """Boxes of 20x40 pixels (5 % across a level line: 2 pixels) that stand at (id, x, y)."""
    boxes = [[x - 10, y - 40, x + 10, y] for _, x, y in tracks]
    return Detections(size_hw, boxes, [label] * len(tracks), [0.9] * len(tracks), track_ids=[t for t, _, _ in tracks])


def walk(places: list[tuple[float, float]], line: str = MIDDLE) -> list[str]:
    """The ways in which one track that goes from place to place was counted."""
    crossings = Crossings(parse_count_lines([line]), NAMES)
    crossed = [each for x, y in places for each in crossings.update(feet_at((1, x, y)))]
    ways = [each.direction for each in crossed]
    total = crossings.counts[line.partition("=")[0]].get("person", {"in": 0, "out": 0})
    assert total == {way: ways.count(way) for way in ("in", "out")}
    return ways


def test_nobody_there_is_nobody_counted() -> None:
    crossings = Crossings(parse_count_lines([MIDDLE]), NAMES)
    empty = Detections(SIZE_HW, np.zeros((0, 4)), np.zeros(0), np.zeros(0), track_ids=np.zeros(0))
    assert crossings.update(empty) == ()
    assert crossings.counts == {"gate": {}}
    assert crossings.marks(SIZE_HW)[0].caption == ("gate: in 0, out 0",)
    assert feet_xy(empty.boxes_xyxy).shape == (0, 2)


def test_a_foot_is_the_middle_of_the_bottom_edge() -> None:
    np.testing.assert_array_equal(feet_xy(np.array([[10, 20, 40, 90], [0, 0, 1, 1]])), [[25, 90], [0.5, 1]])


@pytest.mark.parametrize(
    ("places", "ways"),
    [
        ([(150, 80), (150, 95), (150, 110)], ["in"]),
        ([(150, 120), (150, 90)], ["out"]),
        ([(150, 80), (150, 120), (150, 80), (150, 120)], ["in", "out", "in"]),
        ([(150, 5), (150, 195)], ["in"]),  # over the line in one jump
        ([(150, 80), (150, 100), (150, 80)], []),  # onto the line and back
        ([(150, 80), (150, 101.5), (150, 80)], []),  # a little beyond it and back
        ([(150, 80), (150, 101.5), (150, 102.5)], ["in"]),
        ([(110, 99), (130, 101), (150, 99), (170, 101), (190, 99)], []),  # along the line
        ([(150, 90), (150, 99), (150, 101), (150, 99), (150, 101), (150, 110)], ["in"]),  # trembling on it
        ([(150, 100), (150, 110)], []),  # it was first seen on the line
        ([(150, 100), (150, 110), (150, 90)], ["out"]),
        ([(90, 80), (90, 120)], []),  # beyond the line's first point
        ([(210, 120), (210, 80)], []),  # beyond its second
        ([(100, 80), (100, 120)], ["in"]),  # its points belong to it
        ([(90, 80), (90, 120), (150, 120), (150, 80)], ["out"]),  # round its end, and back through it
        ([(80, 90), (120, 110), (120, 90), (78, 110)], ["in", "out"]),  # askew: at x = 100, 120 and 99
        ([(80, 92), (110, 112)], []),  # askew: on the line's height at x = 92
        ([(190, 97), (205, 99), (205, 101), (190, 110)], []),  # within the margin it went round the end
    ],
)
def test_walks(places: list[tuple[float, float]], ways: list[str]) -> None:
    assert walk(places) == ways
    shifted = [(300 - x, 200 - y) for x, y in places]  # the picture turned by half: the line runs from right to left
    assert walk(shifted, "gate=200,100,100,100") == ways
    assert walk(places, "gate=200,100,100,100") == [{"in": "out", "out": "in"}[way] for way in ways]
    percent = [(300 * x / SIZE_HW[1], 200 * y / SIZE_HW[0]) for x, y in places]
    assert walk(percent, f"gate={100 / 3:.6f}%,50%,{200 / 3:.6f}%,50%") == ways


def test_in_is_from_the_left_hand_to_the_right_hand() -> None:
    assert walk([(150, 50), (100, 50)], "down=120,0,120,100") == ["in"]  # who walks down has the left of the picture
    assert walk([(100, 50), (150, 50)], "down=120,0,120,100") == ["out"]  # at the right hand
    assert walk([(100, 50), (150, 50)], "up=120,100,120,0") == ["in"]


def test_each_line_class_and_track_counts_by_itself() -> None:
    crossings = Crossings(parse_count_lines([MIDDLE, "0%,25%,100%,25%"]), NAMES)
    for y in (40.0, 70.0, 130.0):
        persons, cars = feet_at((1, 120, y), (2, 150, 170 - y)), feet_at((3, 180, y), label=1)
        both = Detections(
            SIZE_HW,
            np.concatenate([persons.boxes_xyxy, cars.boxes_xyxy]),
            [0, 0, 1],
            track_ids=[1, 2, 3],
        )
        crossed = crossings.update(both)
    assert [(each.line, each.track_id, each.label, each.direction) for each in crossed] == [
        ("gate", 1, 0, "in"), ("gate", 2, 0, "out"), ("line2", 2, 0, "out"), ("gate", 3, 1, "in"),
    ]  # fmt: skip
    assert crossings.counts == {
        "gate": {"person": {"in": 1, "out": 1}, "car": {"in": 1, "out": 0}},
        "line2": {"person": {"in": 1, "out": 1}, "car": {"in": 1, "out": 0}},
    }
    gate, line2 = crossings.marks(SIZE_HW)
    assert gate.caption == ("gate: in 2, out 1", "person in 1, out 1", "car in 1, out 0")
    assert (line2.start_xy, line2.end_xy) == ((0, 50), (300, 50))


def test_boxes_without_a_number_do_not_count() -> None:
    crossings = Crossings(parse_count_lines([MIDDLE]), NAMES)
    for y in (80, 120, 80, 120):
        assert crossings.update(feet_at((-1, 150, y), (-1, 150, 200 - y))) == ()
    with pytest.raises(ValueError, match="track_ids"):
        crossings.update(Detections.empty(SIZE_HW))


def test_a_track_that_was_lost_on_the_way_has_crossed() -> None:
    crossings = Crossings(parse_count_lines([MIDDLE]), NAMES)
    crossings.update(feet_at((7, 150, 80)))
    for _ in range(20):
        assert crossings.update(feet_at((8, 10, 10))) == ()
    assert [each.track_id for each in crossings.update(feet_at((7, 150, 130)))] == [7]


def test_another_picture_size_starts_anew() -> None:
    crossings = Crossings(parse_count_lines(["0%,50%,100%,50%"]), NAMES)
    crossings.update(feet_at((1, 150, 80)))
    assert crossings.update(feet_at((1, 150, 230), size_hw=(400, 600))) == ()  # now the line lies at 200
    assert [each.direction for each in crossings.update(feet_at((1, 150, 180), size_hw=(400, 600)))] == ["out"]


def test_memory_stays_flat() -> None:
    crossings = Crossings(parse_count_lines([MIDDLE]), NAMES)
    for number in range(1, 10_001):
        crossings.update(feet_at((number, 150, 80 + number % 2 * 40)))
    assert len(crossings._walks) <= 2000


eighths = st.integers(0, 1600).map(lambda value: value / 8)  # exact in float32, as are their boxes


@given(st.lists(st.tuples(eighths, eighths), max_size=12))
def test_on_a_line_across_the_whole_picture_ways_alternate(places: list[tuple[float, float]]) -> None:
    ways = walk(places, "gate=0,100,300,100")
    assert all(a != b for a, b in pairwise(ways))
    assert ways == [{"in": "out", "out": "in"}[way] for way in walk(places, "gate=300,100,0,100")]
    sides = [y > 100 for _, y in places if abs(y - 100) >= 2]
    assert ways == ["in" if b else "out" for a, b in pairwise(sides) if a != b]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0,300,768,300", CountLine("line1", (0, 300, 768, 300))),
        ("door=0%,70%,100%,70.5%", CountLine("door", (0, 70, 100, 70.5), percent=True)),
        (" north gate = 1, 2.25, 3, 4 ", CountLine("north gate", (1, 2.25, 3, 4))),
        ("дверь-2=0,0,0,9", CountLine("дверь-2", (0, 0, 0, 9))),
    ],
)
def test_lines_are_read(text: str, line: CountLine) -> None:
    assert parse_count_lines([text]) == (line,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a line"),
        ("door", "needs a line"),
        ("1,2,3", "needs a line"),
        ("1,2,3,4,5", "needs a line"),
        ("=1,2,3,4", "needs a line"),
        ("a=b=1,2,3,4", "needs a line"),
        ("a,b=1,2,3,4", "needs a line"),
        ("1,2,3,x", "needs a line"),
        ("-1,2,3,4", "needs a line"),
        ("nan,2,3,4", "needs a line"),
        ("1e3,2,3,4", "needs a line"),
        ("0.5,٣,3,4", "needs a line"),
        ("1,2,3,9999999", "needs a line"),
        ("0,70%,100%,70%", "mixes pixels and percent"),
        ("0%,70%,101%,70%", "goes beyond the picture"),
        ("5,5,5,5", "two different points"),
    ],
)
def test_what_is_no_line_is_refused_with_what_was_found(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_count_lines([text])
    assert repr(text) in str(caught.value)
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_told_apart() -> None:
    unnamed, named, third = parse_count_lines(["0,1,2,3", "door=0,1,2,3", "0,1,2,4"])
    assert (unnamed.name, named.name, third.name) == ("line1", "door", "line3")
    assert parse_count_lines([]) == ()
    with pytest.raises(UsageError, match="2 called 'a'"):
        parse_count_lines(["a=0,1,2,3", "a=0,1,2,4"])


def test_a_line_outside_the_picture_is_refused() -> None:
    (line,) = parse_count_lines(["door=0,900,1920,900"])
    with pytest.raises(UsageError, match="'door' lies outside the picture; found 0,900,1920,900; expected within 300x"):
        Crossings([line], NAMES).update(feet_at((1, 150, 80)))
    assert line.on_picture((1080, 1920)) == ((0, 900), (1920, 900))


@given(st.text(alphabet="0123456789.,%=- aé\n٣", max_size=30) | st.text(max_size=20))
def test_any_text_is_a_line_or_a_usage_error(text: str) -> None:
    try:
        (line,) = parse_count_lines([text])
    except UsageError as error:
        assert repr(text) in str(error)
    else:
        assert line.points[:2] != line.points[2:]
        assert line.percent == ("%" in text)


coordinates = st.tuples(*[st.integers(0, 99_999).map(lambda hundredths: hundredths / 1000)] * 4)


@given(coordinates.filter(lambda four: four[:2] != four[2:]), st.booleans())
def test_a_line_is_read_as_it_was_written(points: tuple[float, float, float, float], percent: bool) -> None:
    unit = "%" if percent else ""
    text = ",".join(f"{value:.3f}{unit}" for value in points)
    assert parse_count_lines([f"a b={text}"]) == (CountLine("a b", points, percent),)
