"""Reading video: every frame once, with its exact time, upright, in its colours, up to where it is damaged."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detkit.errors import DataError
from detkit.infer.frames import Item, VideoInfo
from detkit.infer.video import VideoReader, _Clock, probe
from detkit.infer.video_decode import Decoder
from tests.small_videos import MS, as_item, film_times, make_video, number_of, read

CLIPS = ("car-detection.mp4", "asl-walk.mkv", "mot/FOD-01-LabelPliers.mp4")
FRONT = {"movflags": "+faststart"}  # the index at the front, so that a cut file can be read
LONG_CLIPS = ("bottle-detection.mp4", "one-by-one-person-detection.mp4")


def test_every_frame_comes_once_in_order_with_its_time(tmp_path: Path) -> None:
    frames, reader = read(make_video(tmp_path / "a.mp4", 33))
    assert [number_of(frame.image_rgb) for frame in frames] == list(range(33))  # B-frames put in order, none left over
    assert [frame.number for frame in frames] == list(range(33))
    assert [frame.time_s for frame in frames] == [n / 25 for n in range(33)]
    info = reader.info
    assert (info.size_hw, info.fps, info.frame_count, info.duration_s) == ((48, 64), 25, 33, 33 / 25)
    assert all(frame.video is info and frame.index == 0 for frame in frames)
    assert (reader.ended().frames, reader.ended().warning) == (33, None)
    assert frames[5].image_rgb.shape == (48, 64, 3)
    assert frames[5].image_rgb.dtype == np.uint8
    assert frames[5].image_rgb.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_frame_rate_keeps_every_time(tmp_path: Path, suffix: str) -> None:
    times = [0, 40, 47, 200, 201, 333, 1000, 1033]
    frames, _ = read(make_video(tmp_path / f"a{suffix}", times, time_base=MS))
    base = frames[0].video.time_base  # type: ignore[union-attr]
    assert [frame.pts * base for frame in frames if frame.pts is not None] == [time * MS for time in times]
    assert [frame.time_s for frame in frames] == [time / 1000 for time in times]
    assert [number_of(frame.image_rgb) for frame in frames] == list(range(8))


def test_time_0_is_the_first_frame_whatever_clock_the_file_has(tmp_path: Path) -> None:
    frames, _ = read(make_video(tmp_path / "a.ts", 5))  # MPEG-TS starts at 1.4 s
    assert [frame.time_s for frame in frames] == [0, 0.04, 0.08, 0.12, 0.16]
    assert frames[0].pts != 0


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "open groups.mp4", "open groups.mkv", "a.avi", "a.ts"])
@pytest.mark.parametrize(("start_s", "end_s", "every"), [(0.8, 2.0, 1), (1.62, None, 3), (None, 0.5, 2), (2.4, 9, 1)])
def test_a_part_is_what_the_whole_has_there(
    tmp_path: Path, name: str, start_s: float | None, end_s: float | None, every: int
) -> None:
    codec = "mpeg4" if name == "a.avi" else "libx264"
    options = {"g": "10"} if codec == "mpeg4" else None
    if name.startswith("open"):  # after a key frame come frames that are shown before it
        options = {"preset": "ultrafast", "x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:scenecut=0"}
    path = make_video(tmp_path / name, 70, codec=codec, options=options)
    whole, _ = read(path)
    inside = [frame for frame in whole if (start_s or 0) <= (frame.time_s or 0) < (end_s or 99)][::every]
    part, reader = read(path, start_s=start_s, end_s=end_s, every=every)
    assert [(f.number, f.pts, f.time_s) for f in part] == [(f.number, f.pts, f.time_s) for f in inside]
    assert all(np.array_equal(a.image_rgb, b.image_rgb) for a, b in zip(part, inside, strict=True))
    assert (reader.ended().frames, reader.ended().warning) == (len(inside), None)
    assert (reader.info.start_s, reader.info.end_s, reader.info.every) == (start_s, end_s, every)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_lies_before_the_start_is_jumped_over_where_the_numbers_are_certain(tmp_path: Path, name: str) -> None:
    decoder = Decoder(as_item(make_video(tmp_path / name, 70)))
    assert decoder.jump(1.3)  # frame 32.5: the key frame before is 30
    assert decoder.position == 30
    first = next(iter(decoder))
    assert first.key_frame
    assert number_of(first.to_ndarray(format="rgb24")) == 30  # type: ignore[arg-type]
    assert decoder.first_pts == 0


def test_an_index_with_fewer_key_frames_leads_to_the_same_frame(tmp_path: Path) -> None:
    decoder = Decoder(as_item(make_video(tmp_path / "a.mp4", 70)))
    assert decoder.jump(1.3)
    decoder.container.seek(0, stream=decoder.stream)
    assert number_of(next(iter(decoder)).to_ndarray(format="rgb24")) == 30  # type: ignore[arg-type]
    assert decoder.position == 31


def test_without_an_index_all_before_the_start_is_decoded(tmp_path: Path) -> None:
    assert not Decoder(as_item(make_video(tmp_path / "a.ts", 30))).jump(0.8)


def test_a_start_behind_the_end_gives_nothing_and_says_so(tmp_path: Path) -> None:
    frames, reader = read(make_video(tmp_path / "a.mp4", 30), start_s=7.0)
    assert frames == []
    assert reader.ended().warning == "has no frame from 7 s on: its last one is at 1.16 s"


@pytest.mark.parametrize("part", [{"every": 0}, {"start_s": -1.0}, {"start_s": 2.0, "end_s": 2.0}, {"end_s": 0.0}])
def test_an_empty_part_is_refused(tmp_path: Path, part: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the part to read is empty"):
        VideoReader(as_item(tmp_path / "a.mp4"), 0, **part)  # type: ignore[arg-type]


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_film_comes_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path = make_video(tmp_path / "a.mp4", 3, turn=(degrees, mirrored))
    plain = read(make_video(tmp_path / "plain.mp4", 3))[0][1].image_rgb
    upright = np.rot90(plain, -degrees // 90)
    frames, reader = read(path)
    assert np.array_equal(frames[1].image_rgb, upright[:, ::-1] if mirrored else upright)
    assert reader.info.size_hw == frames[1].image_rgb.shape[:2] == ((64, 48) if degrees % 180 else (48, 64))
    if not mirrored:
        assert probe(path).rotation_deg == degrees


# RGB 200, 60, 30 by the formulas of BT.601 and BT.709, 8 bits, limited and full range
FLAT = {
    "bt601": (5, 1, (101, 94, 192)), "bt709": (1, 1, (91, 101, 191)),
    "bt601 full": (5, 2, (98, 89, 200)), "bt709 full": (1, 2, (88, 97, 199)),
}  # fmt: skip


@pytest.mark.parametrize("case", [*FLAT, "small, unknown", "large, unknown"])
def test_colours_follow_matrix_and_range(tmp_path: Path, case: str) -> None:
    size = {"small, unknown": (64, 48), "large, unknown": (1280, 720)}.get(case, (64, 48))
    known = {"small, unknown": "bt601", "large, unknown": "bt709"}.get(case, case)
    matrix, limits, values = FLAT[known]
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        film = container.add_stream("libx264", 25, {"crf": "1", "preset": "ultrafast"}, width=size[0], height=size[1])
        if known == case:
            film.codec_context.colorspace, film.codec_context.color_range = matrix, limits
        frame = av.VideoFrame(*size, "yuv420p")
        for plane, value in zip(frame.planes, values, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.color_range = limits
        container.mux([*film.encode(frame), *film.encode(None)])
    image = read(path)[0][0].image_rgb
    assert np.abs(image.reshape(-1, 3).astype(int) - (200, 60, 30)).max() <= 4


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size_hw"),
    [
        ("ffv1", "yuv420p10le", (48, 64)), ("ffv1", "gray", (48, 64)), ("ffv1", "yuv444p", (47, 63)),
        ("libx264", "yuv422p10le", (48, 64)), ("mjpeg", "yuvj420p", (47, 63)), ("libvpx-vp9", "yuv420p", (47, 63)),
    ],
)  # fmt: skip
def test_other_codings_depths_and_odd_sizes(tmp_path: Path, codec: str, pix_fmt: str, size_hw: tuple[int, int]) -> None:
    path = make_video(tmp_path / "a.mkv", 5, codec=codec, pix_fmt=pix_fmt, size_hw=size_hw)
    frames, reader = read(path)
    assert [number_of(frame.image_rgb) for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[0].image_rgb.shape == (*size_hw, 3)
    assert reader.ended().warning is None


def test_a_single_frame(tmp_path: Path) -> None:
    frames, reader = read(make_video(tmp_path / "a.mp4", 1))
    assert [(frame.number, frame.time_s) for frame in frames] == [(0, 0.0)]
    assert reader.ended().warning is None


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_cut_off_file_gives_all_frames_up_to_the_cut(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"a{suffix}", 60, container_options=FRONT if suffix == ".mp4" else None)
    data, given = path.read_bytes(), set()
    for share in (0.12, 0.31, 0.5, 0.74, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        frames, reader = read(path)
        given.add(len(frames))
        # the last picture may be half a one, or lack those that are shown before it but come later in the file
        assert [number_of(frame.image_rgb) for frame in frames[:-1]] == list(range(len(frames) - 1))
        assert 60 * (share - 0.1) < len(frames) < 60
        warning = reader.ended().warning
        assert suffix == ".ts" or (warning is not None and f"cut off after frame {len(frames) - 1} " in warning)
    assert len(given) == 5


def test_the_warning_counts_what_is_missing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 60, container_options=FRONT, sounds=[("aac", 2.4)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, reader = read(path)
    packets = len(film_times(path))  # the last may be torn
    said = re.fullmatch(r"cut off after frame (\d+) \((.*) s\): (\d+) frames are missing", reader.ended().warning or "")
    assert said is not None
    assert said.group(1, 2) == (str(len(frames) - 1), f"{frames[-1].time_s:.2f}")
    assert int(said[3]) in (60 - packets, 60 - packets + 1)


def test_behind_garbage_it_goes_on(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 60)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    spoiled = packets[25]
    data = bytearray(path.read_bytes())
    assert spoiled.pos is not None
    data[spoiled.pos : spoiled.pos + spoiled.size] = b"\xff" * spoiled.size
    path.write_bytes(data)
    frames, reader = read(path)
    assert frames[-1].number == len(frames) - 1
    assert number_of(frames[-1].image_rgb) == 59
    assert 40 <= len(frames) < 60
    warning = reader.ended().warning
    assert warning is not None
    assert "damaged after frame 2" in warning
    assert "cut off" not in warning


def test_frames_decoded_side_by_side_are_those_decoded_one_by_one(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "bf": "0", "g": "30"}
    path = make_video(tmp_path / "a.mp4", 14, size_hw=(720, 1280), options=options)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for spoiled in packets[-5:-3]:
        assert spoiled.pos is not None
        data[spoiled.pos : spoiled.pos + spoiled.size] = b"\xff" * spoiled.size
    path.write_bytes(data)
    together, alone = Decoder(as_item(path)), Decoder(as_item(path), threads=False)
    together.stream.codec_context.thread_count = 16  # so many frames are in flight when the file ends
    times = [frame.pts for frame in together]
    assert times == [frame.pts for frame in alone]
    assert len(times) == 12
    assert together.damage(1.0) == alone.damage(1.0) is not None


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("empty.mp4", b"", "cannot be read as a video"),
        ("text.mp4", b"no video at all\n" * 99, "cannot be read as a video; found Invalid data"),
        ("cut.mp4", b"\0\0\0\x18ftypmp42" + bytes(99), "an mp4 without its index"),
    ],
)
def test_what_is_no_video_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=found) as error:
        probe(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_file_sound_only_and_no_frame(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        probe(tmp_path / "no.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", 48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), "s16", "stereo")
        frame.sample_rate = 48000
        container.mux([*track.encode(frame), *track.encode(None)])
    with pytest.raises(DataError, match="has no moving picture; found audio"):
        probe(tmp_path / "sound.mp4")
    path = make_video(tmp_path / "a.mp4", 5)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a frame of it can be read; found h264 data"):
        probe(path)


def info(fps: int = 25, time_base: Fraction = MS) -> VideoInfo:
    return VideoInfo((1, 1), Fraction(fps), time_base)


def test_times_that_are_missing_or_go_back() -> None:
    clock = _Clock(info())
    assert [clock.pts(time) for time in (0, 40, None, 80, 160)] == [0, 40, 80, 81, 160]
    assert [clock.pts(time) for time in (200, 5000, 0, 40)] == [200, 5000, 5040, 5080]  # the clock began anew


@given(times=st.lists(st.none() | st.integers(-(10**6), 10**6), max_size=30))
def test_times_only_go_forward(times: list[int | None]) -> None:
    clock = _Clock(info())
    given_out = [clock.pts(time) for time in times]
    assert all(a < b for a, b in pairwise(given_out))


# --- where it lies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http:a.mp4", "-i.mp4", "ä ß %03d.mp4", "a"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    assert len(read(path)[0]) == 3


def test_bytes_and_members_of_archives(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", 12)  # its index is at the end: the reader has to go back and forth
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "in/a.mp4")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(path, "in/a.mp4")
    items = [Item("-", Path("a.mp4"), "video", data=path.read_bytes())]
    items += [Item(n, Path("a"), "video", tmp_path / n, member="in/a.mp4") for n in ("a.zip", "a.tar.gz")]
    for item in items:
        assert [number_of(frame.image_rgb) for frame in VideoReader(item, 0)] == list(range(12))
    with pytest.raises(DataError, match=r"a\.zip"):
        VideoReader(Item("a.zip", Path("a"), "video", tmp_path / "a.zip", member="no"), 0)


@pytest.mark.parametrize("start", ["#EXTM3U\n", "ffconcat version 1.0\n", "v=0\n", '<?xml version="1.0"?>'])
def test_a_playlist_does_not_reach_out(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.mp4").write_text(start + "#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost:9/a.ts\n")
    with pytest.raises(DataError, match="is a text that points to videos"):
        probe(tmp_path / "a.mp4")


def test_pyav_is_imported_when_the_first_video_is_opened() -> None:
    script = "import sys, detkit.infer.video, detkit.infer.video_writer; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_closed_reader_lets_go_and_ended_waits_for_the_end(tmp_path: Path) -> None:
    with VideoReader(as_item(make_video(tmp_path / "a.mp4", 3)), 0) as reader, pytest.raises(RuntimeError):
        reader.ended()


# --- real clips -------------------------------------------------------------------------------------------------------


def count_by_ffprobe(path: Path) -> int:
    if shutil.which("ffprobe") is None:
        pytest.skip("no ffprobe on this machine")
    arguments = ["-v", "error", "-count_frames", "-select_streams", "v:0", "-of", "csv=p=0"]
    arguments += ["-show_entries", "stream=nb_read_frames"]
    done = subprocess.run(["ffprobe", *arguments, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().strip(","))


@pytest.mark.parametrize("name", [*CLIPS, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG_CLIPS)])
def test_as_many_frames_as_ffprobe_counts(shared_data: Path, name: str) -> None:
    path = shared_data / "video" / name
    decoder = Decoder(as_item(path))
    assert sum(1 for _ in decoder) == count_by_ffprobe(path)
    assert decoder.damage(0.0) is None
