"""Names of outputs: one for each item, inside the folder, and never that of an input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_items import frame_of, nothing, photo, record_of, video

from detkit.errors import UsageError
from detkit.infer.frames import Item
from detkit.infer.sinks.names import OutputNames

OUT = Path("out")


def stems(*items: Item) -> list[str]:
    names = OutputNames(items)
    return [names.stem(item).as_posix() for item in items]


def test_items_keep_their_names_and_those_that_collide_are_told_apart() -> None:
    one, other = photo("1.jpg", name="a/1.jpg"), photo("1.jpg", name="b/1.jpg")
    assert stems(one, other, photo("1.png"), photo("1-2.jpg"), photo("sub/1.jpg")) == [
        "1",
        "1-2",
        "1-3",
        "1-2-2",
        "sub/1",
    ]


def test_case_and_composed_letters_do_not_count() -> None:
    assert stems(photo("A.JPG"), photo("a.jpg")) == ["A", "a-2"]
    assert stems(photo("\u00e4.jpg"), photo("a\u0308.jpg")) == ["\u00e4", "a\u0308-2"]


def test_a_photo_and_a_film_of_one_name_both_keep_it() -> None:
    assert stems(photo("IMG_1.JPG"), video("IMG_1.MOV"), video("IMG_1.mp4")) == ["IMG_1", "IMG_1", "IMG_1-2"]


def test_a_photo_that_is_called_like_a_frame_of_a_film_gives_way() -> None:
    assert stems(video("clip.mp4"), photo("clip_000001.jpg")) == ["clip", "clip_000001-2"]
    assert stems(photo("clip_000001.jpg"), photo("clip_000002.jpg"), video("clip.mp4")) == [
        "clip_000001",
        "clip_000002",
        "clip-2",
    ]


def test_dots_and_numbers_stay_in_the_name() -> None:
    names = OutputNames([clip := video("sub/my.film.v2.mp4")])
    assert names.below(OUT, clip, 7, ".txt") == Path("out/sub/my.film.v2_000007.txt")
    assert names.below(OUT, clip, 12_345_678, ".txt") == Path("out/sub/my.film.v2_12345678.txt")
    assert names.below(OUT, clip, None, ".mp4") == Path("out/sub/my.film.v2.mp4")


@pytest.mark.parametrize(
    ("relative", "stem"),
    [
        ("../../etc/passwd.jpg", "etc/passwd"),
        ("/etc/x.jpg", "etc/x"),
        ("..", "unnamed"),
        ("crops/red/a.jpg", "crops-2/red/a"),
        ("Labels/a.jpg", "Labels-2/a"),
        ("crops.jpg", "crops"),
        (".hidden", ".hidden"),
        (os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"caf\xe9")),
    ],
)
def test_no_name_leads_out_of_the_folder_or_into_one_of_ours(relative: str, stem: str) -> None:
    assert stems(photo(relative)) == [stem]


NAMES = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["a", "A", "a-2", "a_000001", "A_000001-2", "a_000001_000002", "s/a", "a-2_000001"]),
        st.sampled_from([".jpg", ".png"]),
    ),
    max_size=12,
)


@given(NAMES)
def test_no_two_outputs_share_a_file(given_names: list[tuple[bool, str, str]]) -> None:
    items = [
        Item(str(number), Path(name + suffix), "photo" if is_photo else "video")
        for number, (is_photo, name, suffix) in enumerate(given_names)
    ]
    names = OutputNames(items)
    labels = []
    for item in items:
        numbers = [None] if item.kind == "photo" else [1, 2]
        labels += [str(names.below(OUT, item, number, ".txt")).casefold() for number in numbers]
    films = [str(names.below(OUT, item, None, ".mp4")).casefold() for item in items if item.kind == "video"]
    assert len(set(labels)) == len(labels)
    assert len(set(films)) == len(films)


def test_every_shard_settles_the_same_names_and_an_unknown_item_gets_one() -> None:
    items = [photo("1.jpg", name=f"{folder}/1.jpg") for folder in "abc"]
    names, again = OutputNames(items), OutputNames(items)
    assert [again.stem(item) for item in reversed(items)] == [names.stem(item) for item in reversed(items)]
    assert names.stem(photo("1.jpg", name="d/1.jpg")).as_posix() == "1-4"


def test_many_items_of_one_name_take_no_longer_each() -> None:
    items = [photo("image.jpg", name=f"{number}/image.jpg") for number in range(5_000)]
    assert stems(*items)[-1] == "image-5000"


def test_label_files_name_photos_as_they_lie_below_their_folder() -> None:
    items = [photo("sub/a.jpg"), video("sub/clip.mp4")]
    names = OutputNames(items)
    a, clip = record_of(frame_of(items[0]), nothing()), record_of(frame_of(items[1], number=3), nothing())
    assert (names.file_name(a), names.picture_name(a)) == ("sub/a.jpg", "sub/a.jpg")
    assert (names.file_name(clip), names.picture_name(clip)) == ("sub/clip.mp4", "sub/clip_000003.jpg")
    twice = OutputNames([photo("a.jpg", name="x/a.jpg"), photo("a.jpg", name="y/a.jpg")])
    assert twice.file_name({"name": "y/a.jpg", "kind": "photo"}) == "y/a.jpg"
    assert OutputNames([]).file_name({"name": "gone/a.jpg", "kind": "photo"}) == "gone/a.jpg"


def test_an_input_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"x")
    names = OutputNames([photo("a.jpg", path=tmp_path / "a.jpg")])
    names.refuse_input(tmp_path / "b.jpg")
    for name in ("a.jpg", "link.jpg"):
        with pytest.raises(UsageError, match="another --out"):
            names.refuse_input(tmp_path / name)
