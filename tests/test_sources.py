"""Finding what `detkit detect` is given: every kind of source, in order, each file once, nothing lost in silence."""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from detkit.errors import DataError
from detkit.images import decode_image, write_image
from detkit.infer.frames import Item
from detkit.infer.lists import parse_paths
from detkit.infer.refused import Refused
from detkit.infer.sources import find_items, read_photo_bytes

MP4_START = b"\0\0\0\x18ftypisom" + bytes(600)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/{1,2,10}.jpg, photos/sub/{1.png,bad.jpg,a.MP4}, and things to pass over."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("10.jpg", "2.jpg", "1.JPG", "sub/1.png", ".hidden/1.jpg", "._2.jpg"):
        write_image(folder / name, np.full((20, 30, 3), 200, np.uint8))
    (folder / "sub" / "bad.jpg").write_bytes((folder / "2.jpg").read_bytes()[:100])
    (folder / "sub" / "a.MP4").write_bytes(MP4_START)
    (folder / "sub" / "app.ts").write_text("export const x = 1;")
    (folder / "notes.txt").write_text("no photo")
    (folder / "more.zip").write_bytes(b"PK")
    return folder


EVERYTHING = ["1.JPG", "2.jpg", "10.jpg", "sub/1.png", "sub/a.MP4", "sub/bad.jpg"]


def names(found: tuple[Item, ...], folder: Path) -> list[str]:
    return [Path(item.name).relative_to(folder).as_posix() for item in found]


def relatives(found: tuple[Item, ...]) -> list[str]:
    return [item.relative.as_posix() for item in found]


def piped(data: bytes) -> tuple[Item, ...]:
    return find_items("-", stdin=io.BytesIO(data))


def stays_below(relative: Path) -> bool:
    target = Path(os.path.normpath(Path("/out") / relative))
    return target != Path("/out") and target.is_relative_to("/out")


# ---- files, folders, patterns ------------------------------------------------------------------------------------


def test_a_folder_gives_photos_and_videos_in_natural_order(photos: Path) -> None:
    found = find_items(photos)
    assert names(found, photos) == relatives(found) == EVERYTHING
    assert [item.kind for item in found] == ["photo"] * 4 + ["video", "photo"]
    assert all(item.path == Path(item.name) for item in found)


def test_several_sources_keep_their_order_and_no_file_comes_twice(photos: Path) -> None:
    sources = [photos / "10.jpg", str(photos / "*.jpg"), photos, photos / "sub" / ".." / "2.jpg"]
    found = find_items(sources)
    assert names(found, photos) == ["10.jpg", "2.jpg", "1.JPG", *EVERYTHING[3:]]
    assert find_items(found) == found
    assert find_items(found[0]) == found[:1]
    assert find_items([]) == ()


def test_links_are_followed_once(photos: Path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "alias").symlink_to(photos / "sub")
    assert names(find_items(photos), photos) == EVERYTHING
    assert names(find_items([photos, photos / "alias" / "1.png"]), photos) == EVERYTHING


def test_the_folder_for_results_is_left_out(photos: Path) -> None:
    assert names(find_items(photos, leave_out=photos / "sub"), photos) == ["1.JPG", "2.jpg", "10.jpg"]
    assert len(find_items(photos, leave_out=photos)) == len(EVERYTHING)


def test_a_pattern_gives_what_it_matches_photos_and_videos_first(photos: Path) -> None:
    assert relatives(find_items(str(photos / "**" / "*.png"))) == ["1.png"]
    assert relatives(find_items(str(photos / "*"))) == ["1.JPG", "2.jpg", "10.jpg"]  # no folders, archives or texts
    assert relatives(find_items(str(photos / "s*"))) == ["1.png", "a.MP4", "bad.jpg"]  # nothing but a folder
    (photos / "list.txt").write_text("2.jpg\n")
    assert names(find_items(str(photos / "l*")), photos) == ["2.jpg"]
    (photos / "gone.webp").symlink_to(photos / "nowhere.webp")
    (gone,) = find_items(str(photos / "*.webp"))
    with pytest.raises(DataError, match="no such file"):
        read_photo_bytes(gone)


def test_a_file_wins_over_the_pattern_and_the_camera_it_looks_like(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    for name in ("a[1].jpg", "0", "cam1"):
        write_image(Path("x.jpg"), np.zeros((4, 4, 3), np.uint8))
        Path("x.jpg").rename(name)
    found = find_items(["a[1].jpg", "0", "cam1"])
    assert [(item.kind, item.path) for item in found] == [
        ("photo", Path("a[1].jpg")),
        ("photo", Path("0")),
        ("photo", Path("cam1")),
    ]


def test_a_file_without_a_telling_suffix_is_known_by_its_start(tmp_path: Path) -> None:
    starts = {
        "mp4": MP4_START,
        "mkv": b"\x1a\x45\xdf\xa3" + bytes(9),
        "avi": b"RIFF\0\0\0\0AVI LIST",
        "ts": (b"G" + bytes(187)) * 3,
        "heic": b"\0\0\0\x18ftypheic",
        "text": b"hello",
        "none": b"",
    }
    for name, start in starts.items():
        (tmp_path / name).write_bytes(start)
    kinds = {item.relative.name: item.kind for item in find_items([tmp_path / name for name in starts])}
    assert kinds == {**dict.fromkeys(("mp4", "mkv", "avi", "ts"), "video"), "heic": "photo", "text": "photo", "none": "photo"}  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("missing.jpg", DataError, "no such file"),
        ("missing*.jpg", DataError, "no file matches"),
        ("empty", DataError, "no photos or videos in this folder"),
        ("zips", DataError, r"1 archives, which are read when they are named"),
        ("x" * 300, DataError, "cannot be read"),
        ("dangling.jpg", DataError, "no such file"),
        ("nul\0byte.jpg", DataError, "no such file"),
        ("empty.txt", DataError, "lists no paths"),
        ("comments.lst", DataError, "lists no paths"),
        ("binary.txt", DataError, "is no list of paths"),
    ],
)
def test_sources_without_pictures_are_refused(source: str, error: type, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "a.zip").write_bytes(b"PK")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "comments.lst").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(error, match=said) as caught:
        find_items(str(tmp_path / source))
    assert "\n" not in str(caught.value)


# ---- lists -------------------------------------------------------------------------------------------------------


def test_a_list_is_read_from_its_folder_or_the_current_one(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = photos.parent / "lists"
    lists.mkdir()
    monkeypatch.chdir(photos.parent)
    text = "\ufeff# train\n\n  ../photos/2.jpg \r\nphotos/10.jpg\n\tmissing.jpg\n" + f"{photos}/sub\n"
    (lists / "train.txt").write_text(text, encoding="utf-8")
    found = find_items("lists/train.txt")
    assert [item.name for item in found] == [
        "lists/../photos/2.jpg", "photos/10.jpg", "missing.jpg", *(str(photos / name) for name in EVERYTHING[3:]),
    ]  # fmt: skip
    assert relatives(found) == ["2.jpg", "photos/10.jpg", "missing.jpg", "1.png", "a.MP4", "bad.jpg"]
    assert isinstance(found[2], Refused)
    with pytest.raises(DataError, match=r"^lists/train\.txt:5: missing\.jpg: no such file or folder$"):
        read_photo_bytes(found[2])
    assert str(pickle.loads(pickle.dumps(found[2])).error) == str(found[2].error)  # noqa: S301  (Ray does so)


def test_a_yolo_list_keeps_its_folders_for_results(photos: Path) -> None:
    (photos / "val.txt").write_text(f"./2.jpg\n./sub/1.png\n{photos}/sub/bad.jpg\n/usr/none.jpg\n")
    assert relatives(find_items(photos / "val.txt")) == ["2.jpg", "sub/1.png", "sub/bad.jpg", "none.jpg"]


def test_a_line_of_a_list_may_be_a_url_but_not_another_list_or_a_camera(photos: Path) -> None:
    (photos / "list.txt").write_text("list.txt\nrtsp://u:pw@h/1\nfoo://u:pw@h/1\n0\nmore.zip\n")
    found = find_items(photos / "list.txt")
    assert [item.kind for item in found] == ["photo", "stream", "photo", "photo", "photo"]
    assert [isinstance(item, Refused) for item in found] == [False, False, True, True, True]
    assert "list.txt:5: " in str(found[4].error)
    assert "damaged archive" in str(found[4].error)
    assert "pw" not in str(found[2].error) + found[2].name + str(found[2].relative)


def test_a_list_in_utf_16_and_names_that_look_like_comments(photos: Path) -> None:
    (photos / "2.jpg").rename(photos / "#2.jpg")
    (photos / "list.txt").write_bytes("#2.jpg\r\n#gone.jpg\r\n10.jpg\r\n".encode("utf-16"))
    assert names(find_items(photos / "list.txt"), photos) == ["#2.jpg", "10.jpg"]


def test_paths_and_a_photo_come_through_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    odd = "photos/ line\nbreak.jpg"
    Path("photos/2.jpg").rename(odd)
    assert [item.name for item in piped(b"photos/10.jpg\nphotos/none.jpg\n")] == ["photos/10.jpg", "photos/none.jpg"]
    found = piped(os.fsencode(f"./{odd}") + b"\0photos/10.jpg\0")
    assert [item.name for item in found] == [f"./{odd}", "photos/10.jpg"]
    assert relatives(found) == [odd, "photos/10.jpg"]
    assert not any(isinstance(item, Refused) for item in found)
    data = Path("photos/sub/1.png").read_bytes()
    assert piped(data) == (Item("-", Path("stdin.png"), data=data),)
    assert read_photo_bytes(piped(data)[0]) == data
    assert relatives(piped(b"BMW/1.jpg\nBMW/2.jpg\n" + b"a" * 40)) == ["BMW/1.jpg", "BMW/2.jpg", "a" * 40]


def test_standard_input_is_read_once(photos: Path) -> None:
    stream = io.BytesIO(os.fsencode(f"{photos}/2.jpg\n"))
    assert names(find_items(["-", photos / "10.jpg", "-"], stdin=stream), photos) == ["2.jpg", "10.jpg"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "standard input: is empty"),
        (b"\n\n", "lists no paths"),
        (MP4_START, "a video is read from a file"),
        (b"PK\x03\x04" + bytes(50), "is no list of paths"),
        (b"a\0\0b\0", "is no list of paths"),
        (b"\xff\xfea", "is no list of paths"),
    ],
)
def test_what_is_neither_a_photo_nor_paths_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        piped(data)


def test_a_pipe_with_a_name_is_read_like_standard_input(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(f"{photos}/2.jpg\n",))
    writer.start()
    assert names(find_items(tmp_path / "pipe"), photos) == ["2.jpg"]
    writer.join()


PATHS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(st.lists(PATHS, max_size=8), st.booleans())
def test_nul_separated_paths_come_back_to_the_letter(paths: list[str], closed: bool) -> None:
    data = b"\0".join(os.fsencode(path) for path in paths) + (b"\0" if closed or len(paths) == 1 else b"")
    if not paths or data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return
    assert [(one.text, one.exact) for one in parse_paths(data, "x")] == [(path, True) for path in paths]


@given(st.lists(st.from_regex(r"[ -~é中]{0,12}", fullmatch=True), max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_lines_keep_their_numbers(lines: list[str], end: str) -> None:
    found = parse_paths(end.join(lines).encode(), "x")
    assert [(one.number, one.text) for one in found] == [(n, line) for n, line in enumerate(lines, 1) if line.strip()]


LINES = st.sampled_from(
    [b".", b"../../x.jpg", b"/etc/x.jpg", b"a/../..", b"~", b"C:\\x.jpg", b"\\\\h\\x", b"#", b"rtsp://",
     b"-", b"http://[", b"x" * 300, b"\xff\xfe.jpg", b"\xed\xa0\x80", b"*.jpg", b"a//b.jpg", b"http://u:p@h/../a.jpg"]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.one_of(st.binary(max_size=60), st.lists(LINES | st.binary(max_size=12), max_size=5).map(b"\n".join)))
def test_any_bytes_give_items_that_stay_below_the_results_or_one_error(tmp_path: Path, data: bytes) -> None:
    folders = {line.strip() for line in data.replace(b"\0", b"\n").splitlines()}
    assume(not any(re.fullmatch(rb"[/.]*", line) and line not in (b"", b".") for line in folders))  # "/" is every disk
    (tmp_path / "here").mkdir(exist_ok=True)
    (tmp_path / "here" / "list.txt").write_bytes(data)
    try:
        found = find_items(tmp_path / "here" / "list.txt")
    except DataError:
        return
    for item in found:
        assert stays_below(item.relative), item
        if isinstance(item, Refused):
            assert item.error.line is not None


# ---- reading -----------------------------------------------------------------------------------------------------


def test_photos_are_read_wherever_they_lie(photos: Path) -> None:
    for item in find_items(photos)[:4]:
        assert decode_image(read_photo_bytes(item), item.name).shape == (20, 30, 3)
    with pytest.raises(DataError, match=r"a\.MP4: is a video; expected a photo"):
        read_photo_bytes(find_items(photos)[4])
