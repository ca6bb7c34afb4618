"""The journal: what it takes for done, what it refuses to go on with, and that it never touches what it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sink_items import found, frame_of, header, nothing, photo, record_of, video

from detkit.errors import DataError, UsageError
from detkit.infer.frames import Ended, Unreadable
from detkit.infer.journal import read_journal, read_records, remove_partial_files
from detkit.infer.records import Record, ended_record, error_record, json_line
from detkit.infer.sinks.jsonl import JsonlFile

A, B, CLIP, CAM = photo("a.jpg"), photo("b.jpg"), video("clip.mp4"), video("cam")
PHOTO_A = record_of(frame_of(A), found())
PHOTO_B = record_of(frame_of(B), nothing())
BAD = error_record(Unreadable("in/bad.jpg", 2, DataError("is empty"), photo("bad.jpg")))


def of_clip(number: int, item: object = CLIP) -> Record:
    return record_of(frame_of(item, number=number), found())


def end_of(item: object = CLIP) -> Record:
    return ended_record(Ended(item.name, 3, item, 2))


WHOLE = [header(), PHOTO_A, BAD, of_clip(0), of_clip(1), end_of(), PHOTO_B]


def written(file: Path, records: list[Record], torn: bytes = b"") -> Path:
    file.write_bytes(b"".join(map(json_line, records)) + torn)
    return file


def length(records: list[Record]) -> int:
    return sum(len(json_line(one)) for one in records)


@pytest.mark.parametrize(
    ("lines", "torn", "whole", "done"),
    [
        (7, b"", 7, {"in/a.jpg", "in/bad.jpg", "in/clip.mp4", "in/b.jpg"}),
        (7, b'{"version": 2, "ki', 7, {"in/a.jpg", "in/bad.jpg", "in/clip.mp4", "in/b.jpg"}),
        (6, json_line(PHOTO_B)[:-1], 6, {"in/a.jpg", "in/bad.jpg", "in/clip.mp4"}),
        (5, b"", 3, {"in/a.jpg", "in/bad.jpg"}),  # a video without its end
        (4, b"\xff\xfe", 3, {"in/a.jpg", "in/bad.jpg"}),
        (1, b"", 1, set()),
    ],
)
def test_what_is_done_ends_with_the_last_complete_item(
    lines: int, torn: bytes, whole: int, done: set[str], tmp_path: Path
) -> None:
    file = written(tmp_path / "j", WHOLE[:lines], torn)
    journal = read_journal(file)
    assert (journal.header, journal.done, journal.size) == (header(), done, length(WHOLE[:whole]))
    assert journal.errors == ("in/bad.jpg" in done)


def test_what_comes_after_a_video_that_did_not_end_is_not_done(tmp_path: Path) -> None:
    lines = [header(), PHOTO_A, of_clip(0), of_clip(0, CAM), BAD, end_of(CAM), PHOTO_B]
    journal = read_journal(written(tmp_path / "j", lines))
    assert (journal.done, journal.size, journal.errors) == ({"in/a.jpg"}, length(lines[:2]), 0)
    journal = read_journal(written(tmp_path / "j", [*lines, end_of()]))
    assert (journal.size, journal.errors) == (length([*lines, end_of()]), 1)
    assert journal.done == {"in/a.jpg", "in/b.jpg", "in/bad.jpg", "in/cam", "in/clip.mp4"}


@pytest.mark.parametrize("start", [None, b"", json_line(header())[:-1], json_line(header())[:7], b"{"])
def test_without_a_whole_first_line_there_is_nothing_to_go_on_with(start: bytes | None, tmp_path: Path) -> None:
    if start is not None:
        (tmp_path / "j").write_bytes(start)
    assert read_journal(tmp_path / "j") is None
    assert list(read_records(tmp_path / "j")) == []


GOOD = json_line(header())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", r"j:1: is no file of results; found b'a,b\\n'"),
        (b"\x89PNG\r\n\x1a\n", "is no file of results"),
        (b"no line at all", "is no file of results"),
        (b"[]\n", "is no file of results"),
        (json_line(PHOTO_A), "is no file of results"),
        (GOOD.replace(b'"version": 2', b'"version": 3'), "another version of detkit; found 3; expected version 2"),
        (b'{"kind": "run", "version": 2}\n', "is no file of results"),
        (GOOD + b"\n", "j:2: is damaged"),
        (GOOD + json_line(PHOTO_A) + b"\0\0\0\n" + json_line(PHOTO_B), "j:3: is damaged"),
        (GOOD + b'{"kind": "photo"}\n', "j:2: is damaged"),
        (GOOD + GOOD, "j:2: is damaged"),
        (GOOD + b"[" * 100_000 + b"\n", "j:2: is damaged"),
    ],
)
def test_a_foreign_or_damaged_file_is_one_line_and_stays(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_journal(tmp_path / "j")
    assert len(str(caught.value)) < 300
    assert (tmp_path / "j").read_bytes() == content


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_journal(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, length(WHOLE)), junk=st.binary(max_size=20))
def test_wherever_a_run_was_killed_going_on_gives_the_same_bytes(cut: int, junk: bytes, tmp_path: Path) -> None:
    """Cut anywhere, and a torn line after it; the items that are not done are written again."""
    whole = b"".join(map(json_line, WHOLE))
    file = tmp_path / "j"
    torn = junk.replace(b"\n", b"") if cut and whole[cut - 1 : cut] != b"\n" else b""
    file.write_bytes(whole[:cut] + torn)
    if cut < len(json_line(header())) and torn:
        return  # the first line became another one
    journal = read_journal(file)
    lines = JsonlFile.new(file) if journal is None else JsonlFile.resumed(journal)
    for one in WHOLE if journal is None else WHOLE[1:]:
        if journal is None or one["name"] not in journal.done:
            lines.write(one)
    lines.close()
    assert file.read_bytes() == whole


def test_a_run_with_other_settings_is_refused_and_says_which(tmp_path: Path) -> None:
    journal = read_journal(written(tmp_path / "j", [header()]))
    journal.check_same_run(header())
    renamed = header()
    renamed["model"] = renamed["model"] | {"file": "copy.onnx"}
    journal.check_same_run(renamed)
    with pytest.raises(UsageError) as caught:
        journal.check_same_run(header(conf=0.5, tile=640))
    said = f"{tmp_path}/j: was made with other settings, so it cannot be resumed with these"
    assert str(caught.value) == f"{said}; found conf 0.25, tile null; expected conf 0.5, tile 640"
    for key, value in {"sha256": "cd" * 32, "engine": "openvino", "class_names": ["red"]}.items():
        other = header()
        other["model"] = other["model"] | {key: value}
        with pytest.raises(UsageError, match=f"model.{key}"):
            journal.check_same_run(other)
    with pytest.raises(UsageError, match=r"found detkit .*; expected detkit 9\.9"):
        journal.check_same_run(header() | {"detkit": "9.9"})


def test_partial_files_of_a_killed_run_are_removed_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    partial = [tmp_path / f".{'0a' * 16}.part.jpg", tmp_path / "sub" / f".{'b7' * 16}.part"]
    others = [tmp_path / ".part.jpg", tmp_path / "sub" / "a.part.jpg", tmp_path / f"{'0a' * 16}.part.jpg"]
    for file in (*partial, *others):
        file.write_bytes(b"x")
    remove_partial_files(tmp_path)
    assert not any(file.exists() for file in partial)
    assert all(file.exists() for file in others)
