"""Drawing: a new picture, boxes where they belong, captions inside the picture."""

from __future__ import annotations

import numpy as np
import pytest

from detkit.detections import Detections
from detkit.draw import LineMark, _text_color, class_color, draw, track_color


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_nothing_to_draw_gives_an_equal_copy():
    image = grey(30, 60)
    for scored in (True, False):
        picture = draw(image, Detections.empty((30, 60), scored=scored), [])
        np.testing.assert_array_equal(picture, image)
        assert not np.shares_memory(picture, image)


@pytest.mark.parametrize("size_hw", [(300, 500), (80, 80), (1500, 2000)])
def test_the_frame_lies_on_the_edge_of_its_box_and_the_image_stays(size_hw):
    image, (height, width) = grey(*size_hw), size_hw
    left, top, right, bottom = width // 4, height // 2, width // 2, height - 10
    truth = Detections(size_hw, [[left, top, right, bottom]], [1])
    picture = draw(image, truth, ["cat", "dog"])
    np.testing.assert_array_equal(image, grey(*size_hw))
    color, middle_x, middle_y = list(class_color(1)), (left + right) // 2, (top + bottom) // 2
    for y, x in ((top, middle_x), (bottom - 1, middle_x), (middle_y, left), (middle_y, right - 1)):
        assert picture[y, x].tolist() == color
    for y, x in ((bottom, middle_x), (middle_y, left - 1), (middle_y, right), (middle_y, middle_x)):
        assert picture[y, x].tolist() == [128] * 3
    assert picture[top - 2, left + 1].tolist() == color  # the plate stands on the box


def test_lines_and_letters_grow_with_the_picture():
    changed = []
    for side in (80, 400, 2000):
        box = [[side * 0.3, side * 0.5, side * 0.9, side * 0.9]]
        picture = draw(grey(side, side), Detections((side, side), box, [0]), ["x"])
        changed.append(int((picture[int(side * 0.7)] != 128).any(axis=1).sum()))
    assert changed == sorted(set(changed))


@pytest.mark.parametrize(
    "box", [[0, 0, 50, 30], [460, 0, 500, 30], [460, 270, 500, 300], [0, 0, 500, 300], [-90, -90, 900, 900]]
)
def test_the_caption_stays_inside(box):
    plain = draw(grey(300, 500), Detections((300, 500), [box], [0]), [""])
    picture = draw(grey(300, 500), Detections((300, 500), [box], [0], [0.5]), ["elephant"])
    rows, columns = np.nonzero((picture != plain).any(axis=2))
    assert rows.max() - rows.min() >= 8  # a whole plate with its text shows
    assert columns.max() - columns.min() >= 60


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 200), (200, 3), (12, 12)])
def test_tiny_pictures_long_names_and_odd_boxes_are_drawn(size_hw):
    odd = [[0, 0, 1, 1], [5, 5, 5, 5], [9, 9, 2, 2], [-1e9, 0, 1e9, 1], [np.nan, 0, np.inf, 1], [1e6, 1e6, 2e6, 2e6]]
    detections = Detections(size_hw, odd, [0] * 6, [0.5] * 6, np.ones((6, 2, 3)), [1] * 6, [True, False] * 3)
    picture = draw(grey(*size_hw), detections, ["a name that is far too long for so small a picture"])
    assert picture.shape == (*size_hw, 3)


def test_captions_do_not_cover_each_other():
    detections = Detections((300, 500), [[100, 100, 300, 200], [104, 102, 302, 204]], [0, 1], [0.9, 0.8])
    names = ["aaa", "bbb"]
    both = draw(grey(300, 500), detections, names)
    alone = draw(grey(300, 500), detections[0], names)
    top = 100 - 14
    np.testing.assert_array_equal(both[top:100, 100:140], alone[top:100, 100:140])
    assert (both != alone).any(axis=2).sum() > 1000  # the other one has its own plate


def test_the_better_score_lies_on_top():
    crossing = Detections((300, 500), [[50, 100, 300, 200], [200, 50, 250, 250]], [0, 1], [0.9, 0.3])
    assert draw(grey(300, 500), crossing, ["", ""])[100, 200].tolist() == list(class_color(0))
    worse = Detections((300, 500), crossing.boxes_xyxy, [0, 1], [0.3, 0.9])
    assert draw(grey(300, 500), worse, ["", ""])[100, 200].tolist() == list(class_color(1))


def test_crowd_boxes_are_dashed():
    box = [[20, 100, 480, 280]]
    solid = draw(grey(300, 500), Detections((300, 500), box, [0], crowd=[False]), ["x"])
    dashed = draw(grey(300, 500), Detections((300, 500), box, [0], crowd=[True]), ["x"])
    color = class_color(0)
    assert (solid[279, 20:480] == color).all()
    share = (dashed[279, 20:480] == color).all(axis=1).mean()
    assert 0.3 < share < 0.7


def test_points_show_where_they_are_visible():
    points = [[[100, 150, 2], [200, 150, 0], [300, 150, 1]]]
    picture = draw(grey(300, 500), Detections((300, 500), [[20, 60, 480, 280]], [0], points_xyv=points), ["x"])
    assert picture[150, 100].tolist() == list(class_color(0))
    assert picture[150, 200].tolist() == [128] * 3
    assert picture[150, 300].tolist() == list(class_color(2))


def test_track_numbers_scores_and_other_scripts_change_the_caption():
    box = [[100, 100, 300, 200]]
    plain = Detections((300, 500), box, [0])
    scored = Detections((300, 500), box, [0], [0.5])
    tracked = Detections((300, 500), box, [0], [0.5], track_ids=[12])
    widths = [(draw(grey(300, 500), each, ["cat"])[95] != 128).any(axis=1).sum() for each in (plain, scored, tracked)]
    assert widths == sorted(set(widths))
    cv2 = pytest.importorskip("cv2")
    if hasattr(cv2, "FontFace"):  # OpenCV 5
        cat, dog, unknown = (draw(grey(300, 500), plain, [name]) for name in ("кот", "пёс", "???"))
        assert (cat != dog).any()
        assert (cat != unknown).any()


def test_a_track_has_its_own_colour_and_a_box_without_a_number_is_grey():
    boxes = [[20, 50, 120, 150], [180, 50, 280, 150], [340, 50, 440, 150]]
    tracked = Detections((300, 500), boxes, [1, 1, 1], track_ids=[1, 2, -1])
    picture = draw(grey(300, 500), tracked, ["", "cat"])
    edges = [picture[149, x].tolist() for x in (70, 230, 390)]
    assert edges == [list(track_color(1)), list(track_color(2)), list(track_color(-1))]
    assert len({track_color(number) for number in (-1, *range(1, 37))}) == 37
    assert track_color(-1) == track_color(0)
    assert len(set(track_color(-1))) == 1  # grey


def test_a_box_without_a_number_has_none_in_its_caption():
    box, none = [[100, 100, 300, 200]], [[0, 0, 1, 1]] * 3
    widths = [
        (draw(grey(300, 500), Detections((300, 500), box, [0], track_ids=ids), ["cat"])[95] != 128).any(axis=1).sum()
        for ids in ([-1], [0], [1], None)
    ]
    assert widths[0] == widths[1] == widths[3] < widths[2]
    assert draw(grey(300, 500), Detections((300, 500), none, [0, 0, 0], track_ids=[-1, 0, 7]), ["x"]).any()


def test_trails_lie_below_the_boxes_and_get_thinner():
    tracked = Detections((300, 500), [[350, 100, 450, 200]], [0], track_ids=[4])
    trail = [(x, 150) for x in range(50, 401, 10)]
    plain = draw(grey(300, 500), tracked, [""])
    picture = draw(grey(300, 500), tracked, [""], trails={4: trail})
    color = np.array(track_color(4))
    np.testing.assert_array_equal(picture[150, 300], color)
    thickness = [(picture[:, x] != 128).any(axis=1).sum() for x in (60, 340)]
    assert 2 <= thickness[0] < thickness[1] <= 12
    np.testing.assert_array_equal(picture[100:200, 350], plain[100:200, 350])  # the frame is whole
    for one in ([], [(9, 9)], [(-1e9, 0), (np.float32(1e9), 4)]):
        assert draw(grey(300, 500), tracked, [""], trails={4: one}).shape == (300, 500, 3)


def test_a_count_line_has_an_arrow_towards_its_right_hand():
    nobody, image = Detections.empty((300, 500)), grey(300, 500)
    down = draw(image, nobody, [], lines=[LineMark((100, 150), (400, 150))])
    up = draw(image, nobody, [], lines=[LineMark((400, 150), (100, 150))])
    for picture, tip_y, other_y in ((down, 160, 140), (up, 140, 160)):
        assert (picture[150, 100:401] == 255).all()
        assert (picture[150, [90, 410]] == 128).all()
        assert (picture[tip_y, 250] == 255).all()
        assert (picture[other_y, 250] == 128).all()
    np.testing.assert_array_equal(image, grey(300, 500))


@pytest.mark.parametrize("start", [(0, 0), (500, 0), (500, 300), (0, 300), (-900, 150), (250, 150)])
def test_the_counts_stay_inside(start):
    line = LineMark(start, (200, 100), ("door: in 2, out 1", "cat in 1, out 1", "dog in 1, out 0"))
    nobody = Detections.empty((300, 500))
    bare = draw(grey(300, 500), nobody, [], lines=[line._replace(caption=())])
    picture = draw(grey(300, 500), nobody, [], lines=[line])
    rows, columns = np.nonzero((picture != bare).any(axis=2))
    assert rows.max() - rows.min() >= 40  # three rows of text
    assert columns.max() - columns.min() >= 80


def test_the_counts_hide_no_caption():
    line = LineMark((100, 150), (400, 150), ("door: in 0, out 0",))
    box = Detections((300, 500), [[98, 150, 300, 250]], [0])
    alone, both = (draw(grey(300, 500), box, ["cat"], lines=lines) for lines in ([], [line]))
    colored = [(each == class_color(0)).all(axis=2).sum() for each in (alone, both)]
    assert colored[1] > 0.9 * colored[0]  # the caption stands somewhere else


def test_two_lines_from_one_point_show_both_counts():
    lines = [LineMark((250, 150), (400, 200), ("first",)), LineMark((250, 150), (100, 200), ("second",))]
    picture = draw(grey(300, 500), Detections.empty((300, 500)), [], lines=lines)
    alone = [draw(grey(300, 500), Detections.empty((300, 500)), [], lines=[each]) for each in lines]
    dark = [int((each == 20).all(axis=2).sum()) for each in (picture, *alone)]
    assert dark[0] > 0.9 * (dark[1] + dark[2])


def test_tiny_pictures_show_lines_and_trails_too():
    for size_hw in ((1, 1), (3, 200), (200, 3)):
        tracked = Detections(size_hw, [[0, 0, 1, 1]], [0], track_ids=[1])
        line = LineMark((0, 0), (3, 3), ("a line with a long name: in 0, out 0",) * 3)
        assert draw(grey(*size_hw), tracked, ["x"], trails={1: [(0, 0), (5, 5)]}, lines=[line]).shape == (*size_hw, 3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the image is"):
        draw(grey(300, 500), Detections.empty((500, 300)), ["x"])
    for label in (1, -1):
        with pytest.raises(ValueError, match="class names"):
            draw(grey(300, 500), Detections((300, 500), [[0, 0, 9, 9]], [label]), ["x"])


def test_colours_are_stable_and_distinct():
    colors = [class_color(label) for label in range(36)]
    assert len(set(colors)) == 36
    assert class_color(0) == (255, 77, 79)
    assert class_color(36) == class_color(0)


def test_text_contrasts_with_its_plate():
    assert _text_color((255, 255, 255)) == _text_color((255, 196, 0)) == (20, 20, 20)
    assert _text_color((0, 0, 0)) == _text_color((60, 60, 160)) == (255, 255, 255)
