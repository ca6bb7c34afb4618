"""Annotated pictures and videos, and crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sink_items import CLASSES, found, frame_of, nothing, photo, record_of, video

from detkit.detections import Detections
from detkit.errors import DataError, RunError, UsageError
from detkit.images import read_image, write_image
from detkit.infer.frames import Ended, Frame, Item, Unreadable, VideoInfo
from detkit.infer.records import ended_record, error_record
from detkit.infer.sinks.crops import Crops, cut_out
from detkit.infer.sinks.names import OutputNames
from detkit.infer.sinks.pictures import PictureFolder, plain_painter
from detkit.infer.sinks.videos import VideoFolder
from detkit.infer.sinks.workers import Workers

PAINTER = plain_painter(CLASSES)


def files_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def pictures(folder: Path, *items: Item) -> tuple[PictureFolder, Workers]:
    workers = Workers(2)
    return PictureFolder(folder, OutputNames(items), PAINTER, workers, items), workers


def write(sink: PictureFolder | Crops | VideoFolder, frame: Frame, detections: Detections) -> None:
    sink.write(frame, detections, record_of(frame, detections))


# ---- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_keep_their_names_and_something_is_drawn(tmp_path: Path) -> None:
    items = [photo("1.JPG"), photo("sub/1.png"), photo("1.jpg", name="b/1.jpg"), photo("ä.webp")]
    sink, workers = pictures(tmp_path, *items)
    for index, item in enumerate(items):
        write(sink, frame_of(item, index), found())
    workers.close()
    assert files_in(tmp_path) == ["1-2.jpg", "1.JPG", "sub/1.png", "ä.webp"]
    assert [sink.target(frame_of(item)).relative_to(tmp_path).as_posix() for item in items] == [
        "1.JPG",
        "sub/1.png",
        "1-2.jpg",
        "ä.webp",
    ]
    assert not np.array_equal(read_image(tmp_path / "sub/1.png"), frame_of(items[1]).image_rgb)


def test_a_picture_without_objects_is_a_copy(tmp_path: Path) -> None:
    sink, workers = pictures(tmp_path, item := photo("a.png"))
    write(sink, frame_of(item, size_hw=(7, 3)), nothing((7, 3)))
    workers.close()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), frame_of(item, size_hw=(7, 3)).image_rgb)


def test_a_kind_of_file_we_cannot_write_becomes_a_jpg_and_frames_are_passed_over(tmp_path: Path) -> None:
    items = [photo("a.gif"), photo("piped"), clip := video("clip.mp4")]
    sink, workers = pictures(tmp_path, *items)
    for index, item in enumerate(items[:2]):
        write(sink, frame_of(item, index), found())
    frame = frame_of(clip, 2, number=0)
    write(sink, frame, found())
    workers.close()
    assert sink.target(frame) is None
    assert files_in(tmp_path) == ["a.jpg", "piped.jpg"]


@pytest.mark.parametrize("folder", ["photos", "photos/sub/.."])
def test_a_picture_never_replaces_a_photo(folder: str, tmp_path: Path) -> None:
    (tmp_path / "photos/sub").mkdir(parents=True)
    write_image(tmp_path / "photos" / "a.jpg", np.zeros((9, 9, 3), np.uint8))
    before = (tmp_path / "photos" / "a.jpg").read_bytes()
    with pytest.raises(UsageError, match="another --out"):
        pictures(tmp_path / folder, photo("a.jpg", path=tmp_path / "photos" / "a.jpg"))
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    sink, workers = pictures(tmp_path / "out", item := photo("a.jpg"))
    write(sink, frame_of(item), found())
    with pytest.raises(RunError):
        workers.close()


# ---- crops -------------------------------------------------------------------------------------------------------


def gradient(height: int, width: int) -> np.ndarray:
    return np.dstack([*np.indices((height, width)), np.zeros((height, width))]).astype(np.uint8)


@pytest.mark.parametrize(
    ("box_xyxy", "margin", "rows", "columns"),
    [
        ([2, 3, 5, 8], 0, (3, 8), (2, 5)),
        ([2.4, 3.6, 4.2, 7.01], 0, (3, 8), (2, 5)),
        ([-5, -5, 100, 100], 0, (0, 20), (0, 30)),
        ([10, 4, 20, 8], 0.5, (2, 10), (5, 25)),
        ([29.9, 19.9, 30, 20], 0, (19, 20), (29, 30)),
        ([30, 20, 30, 20], 0, (19, 20), (29, 30)),  # no area, at the edge
        ([5, 5, 5, 5], 0, (5, 6), (5, 6)),
        ([40, 40, 50, 50], 0, (19, 20), (29, 30)),  # beyond the photo
    ],
)
def test_crops_are_clipped_and_never_empty(
    box_xyxy: list[float], margin: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = gradient(20, 30)
    np.testing.assert_array_equal(cut_out(image, box_xyxy, margin), image[slice(*rows), slice(*columns)])


def test_crops_lie_by_class_and_are_numbered_best_first(tmp_path: Path) -> None:
    items = [photo("sub/a.png"), photo("empty.jpg"), clip := video("clip.mp4")]
    workers = Workers(2)
    sink = Crops(tmp_path, OutputNames(items), ("../red", "a/b:c"), workers)
    write(sink, frame_of(items[0], 0), found())
    write(sink, frame_of(items[1], 1), nothing())
    write(sink, frame_of(clip, 2, number=12), found())
    workers.close()
    assert files_in(tmp_path) == [
        "crops/__red/clip_000012-1.jpg",
        "crops/__red/sub/a-1.jpg",
        "crops/a_b_c/clip_000012-2.jpg",
        "crops/a_b_c/sub/a-2.jpg",
    ]
    assert read_image(tmp_path / "crops/__red/sub/a-1.jpg").shape == (20, 11, 3)
    with pytest.raises(ValueError, match="margin"):
        Crops(tmp_path, OutputNames([]), CLASSES, workers, margin=-0.1)


def test_a_crop_never_replaces_a_photo(tmp_path: Path) -> None:
    inner = tmp_path / "crops" / "red" / "a-1.jpg"
    inner.parent.mkdir(parents=True)
    write_image(inner, np.zeros((9, 9, 3), np.uint8))
    items = [photo("a.jpg"), photo("a-1.jpg", path=inner)]
    sink = Crops(tmp_path, OutputNames(items), CLASSES, Workers())
    with pytest.raises(UsageError, match="would replace"):
        write(sink, frame_of(items[0]), found())


# ---- videos ------------------------------------------------------------------------------------------------------


class FakeWriter:
    """Notes what it was given; the file appears when it is closed."""

    every: list[FakeWriter]

    def __init__(self, target: Path, source: Item | None, info: VideoInfo) -> None:
        self.target, self.source, self.info = target, source, info
        self.frames: list[tuple[int, bool]] = []
        self.end = ""
        FakeWriter.every.append(self)

    def write(self, image_rgb: np.ndarray, pts: int) -> None:
        if pts == 13:
            raise RunError("disk full")
        self.frames.append((pts, bool((image_rgb != 90).any())))

    def close(self) -> None:
        self.target.write_bytes(b"mp4")
        self.end += "close"

    def abort(self) -> None:
        self.end += "abort"


@pytest.fixture(autouse=True)
def _no_writers() -> None:
    FakeWriter.every = []


CLIP, CAM = video("sub/clip.mkv"), Item("rtsp://x", Path("x"), "stream", url="rtsp://x")


def end(sink: VideoFolder, item: Item, index: int) -> None:
    ended = Ended(item.name, index, item, 2)
    sink.ended(ended, ended_record(ended))


def videos(folder: Path, *items: Item) -> VideoFolder:
    return VideoFolder(folder, OutputNames(items), PAINTER, items, FakeWriter)


def test_streams_interleave_and_each_has_its_own_file(tmp_path: Path) -> None:
    sink = videos(tmp_path, CLIP, CAM, photo("a.jpg"))
    for number in range(8):
        write(sink, frame_of(CLIP, 0, number=number), found() if number % 2 else nothing())
        write(sink, frame_of(CAM, 1, number=2 * number), nothing())
    write(sink, frame_of(photo("a.jpg"), 2), found())
    end(sink, CLIP, 0)
    clip = next(one for one in FakeWriter.every if one.source is CLIP)
    cam = next(one for one in FakeWriter.every if one is not clip)
    assert clip.target == tmp_path / "sub/clip.mp4"
    assert clip.frames == [(number, bool(number % 2)) for number in range(8)]
    assert (clip.end, cam.end) == ("close", "")
    assert cam.source is None  # a stream has no file to copy sound from
    sink.close()
    assert cam.end == "close"
    assert cam.frames == [(2 * number, False) for number in range(8)]
    assert files_in(tmp_path) == ["sub/clip.mp4", "x.mp4"]
    assert len(FakeWriter.every) == 2


def test_a_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    sink = videos(tmp_path, CLIP)
    end(sink, CLIP, 0)
    sink.close()
    assert files_in(tmp_path) == []


def test_broken_off_videos_leave_no_file(tmp_path: Path) -> None:
    sink = videos(tmp_path, CLIP, CAM)
    write(sink, frame_of(CLIP, 0, number=0), nothing())
    write(sink, frame_of(CAM, 1, number=0), nothing())
    broken = Unreadable(CLIP.name, 0, DataError("is damaged"), CLIP)
    sink.unreadable(broken, error_record(broken))
    sink.abort()
    assert all(writer.end == "abort" for writer in FakeWriter.every)
    assert files_in(tmp_path) == []


def test_a_failing_video_stops_the_run(tmp_path: Path) -> None:
    sink = videos(tmp_path, CLIP)
    write(sink, frame_of(CLIP, 0, number=12), nothing())
    write(sink, frame_of(CLIP, 0, number=13), nothing())
    with pytest.raises(RunError, match="disk full"):
        end(sink, CLIP, 0)
    sink.abort()
    assert FakeWriter.every[0].end == "abort"
    assert files_in(tmp_path) == []


def test_a_video_never_replaces_its_source(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    item = Item("clip.mp4", Path("clip.mp4"), "video", path=tmp_path / "clip.mp4")
    with pytest.raises(UsageError, match="another --out"):
        videos(tmp_path, item)


def test_a_real_video_is_written(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    cam = Item("cam", Path("cam"), "stream")
    sink = VideoFolder(tmp_path, OutputNames([cam]), PAINTER, [cam])
    for number in range(3):
        write(sink, frame_of(cam, 0, (48, 64), number=number), found((48, 64)))
    end(sink, cam, 0)
    assert files_in(tmp_path) == ["cam.mp4"]
    with av.open(str(tmp_path / "cam.mp4")) as container:
        assert len([*container.decode(video=0)]) == 3
