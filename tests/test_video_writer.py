"""Writing video: the copy has the times, the frames, the colours and the sound of its source, or is not there."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from detkit.errors import MissingExtraError, RunError
from detkit.infer import video_writer
from detkit.infer.frames import VideoInfo
from detkit.infer.video import probe
from detkit.infer.video_writer import VideoWriter
from tests.small_videos import MS, as_item, copy, film_times, make_video, number_of, read, sound_packets

INFO = VideoInfo((48, 64), Fraction(25), Fraction(1, 25))


def flat(color: tuple[int, int, int], size_hw: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size_hw, 3), color, np.uint8)


def film(path: Path) -> tuple[int, Fraction | None, Fraction]:
    """Frames, rate and duration in seconds as the file says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        return stream.frames, stream.average_rate, (stream.duration or 0) * stream.time_base


# --- frames and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "time_base", "fps"),
    [
        (range(31), Fraction(1, 25), 25),
        (range(31), Fraction(1001, 30000), Fraction(30000, 1001)),
        (range(31), Fraction(6, 179), Fraction(179, 6)),
        ([0, 40, 47, 200, 201, 333, 1000, 1033], MS, 25),
        ([5000, 5040, 5100], MS, 25),
    ],
    ids=["25", "30000/1001", "179/6", "variable", "late"],
)
def test_times_rate_and_duration_are_those_of_the_source(
    tmp_path: Path, times: list[int], time_base: Fraction, fps: Fraction
) -> None:
    options = {"preset": "ultrafast", "bf": "0" if time_base == MS else "2"}
    source = make_video(tmp_path / "a.mp4", times, time_base=time_base, fps=fps, options=options)
    copy(source, tmp_path / "out.mp4")
    start = film_times(source)[0]  # the copy's clock starts with its first frame
    assert film_times(tmp_path / "out.mp4") == [time - start for time in film_times(source)]
    frames_in, rate_in, duration_in = film(source)
    frames_out, rate_out, duration_out = film(tmp_path / "out.mp4")
    assert (frames_out, rate_out) == (frames_in, rate_in)
    assert abs(duration_out - duration_in) < Fraction(1, 1000)  # B-frames make the source's a number of milliseconds
    frames, reader = read(tmp_path / "out.mp4")
    assert [number_of(frame.image_rgb) for frame in frames] == list(range(len(times)))
    assert reader.ended().warning is None


def test_a_constant_rate_that_milliseconds_only_come_near_is_exact_in_the_copy(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", 31, time_base=Fraction(1, 30), fps=30)
    assert film_times(source)[1] == Fraction(33, 1000)
    copy(source, tmp_path / "out.mp4")
    assert film(tmp_path / "out.mp4") == (31, 30, Fraction(31, 30))
    assert film_times(tmp_path / "out.mp4") == [Fraction(n, 30) for n in range(31)]


def test_variable_times_in_milliseconds_stay_what_they_are(tmp_path: Path) -> None:
    times = [0, 33, 90, 100, 133]
    source = make_video(tmp_path / "a.mkv", times, time_base=MS, fps=30)
    copy(source, tmp_path / "out.mp4")
    assert film_times(tmp_path / "out.mp4") == [time * MS for time in times]


def test_with_every_the_rate_is_divided_and_the_duration_stays(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 30)
    copy(source, tmp_path / "out.mp4", every=5)
    assert film(tmp_path / "out.mp4") == (6, 5, Fraction(30, 25))
    assert [number_of(frame.image_rgb) for frame in read(tmp_path / "out.mp4")[0]] == [0, 5, 10, 15, 20, 25]


def test_of_a_cut_off_source_the_last_frame_is_not_held_to_where_the_end_was(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 60, container_options={"movflags": "+faststart"})
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    count = copy(source, tmp_path / "out.mp4")
    assert film(tmp_path / "out.mp4")[2] == film_times(tmp_path / "out.mp4")[-1] + Fraction(1, 25)
    assert film(tmp_path / "out.mp4")[0] == count


def test_the_index_comes_first(tmp_path: Path) -> None:
    copy(make_video(tmp_path / "a.mp4", 5), tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(48, 64), (720, 1280)])
@pytest.mark.parametrize("color", [(200, 60, 30), (20, 180, 90), (10, 20, 230), (255, 255, 255), (0, 0, 0)])
def test_colours_survive_and_are_marked(tmp_path: Path, size_hw: tuple[int, int], color: tuple[int, int, int]) -> None:
    with VideoWriter(tmp_path / "a.mp4", None, VideoInfo(size_hw, Fraction(25), Fraction(1, 25))) as writer:
        writer.write(flat(color, size_hw), 0)
    image = read(tmp_path / "a.mp4")[0][0].image_rgb
    assert np.abs(image.astype(int) - color).max() <= 5
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == ((1, 1) if size_hw[0] == 720 else (6, 1))
        assert context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("size_hw", [(47, 63), (47, 64), (48, 63), (1, 1)])
def test_odd_sides_get_their_last_row_and_column_twice(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    with VideoWriter(tmp_path / "a.mp4", None, VideoInfo(size_hw, Fraction(25), Fraction(1, 25))) as writer:
        writer.write(flat((200, 60, 30), size_hw), 0)
    image = read(tmp_path / "a.mp4")[0][0].image_rgb
    assert image.shape == (size_hw[0] + size_hw[0] % 2, size_hw[1] + size_hw[1] % 2, 3)
    assert np.abs(image[-1, -1].astype(int) - (200, 60, 30)).max() <= 5


@pytest.mark.parametrize("degrees", [0, 90])
def test_a_turned_film_is_written_upright_with_the_shape_of_its_pixels(tmp_path: Path, degrees: int) -> None:
    source = make_video(tmp_path / "a.mp4", 3, turn=(degrees, False), pixel_aspect=Fraction(16, 15))
    copy(source, tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.size_hw, info.rotation_deg) == ((64, 48) if degrees else (48, 64), 0)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == (Fraction(15, 16) if degrees else Fraction(16, 15))


# --- sound ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 1.2, 3.0])
def test_sound_is_copied_packet_by_packet(tmp_path: Path, seconds: float) -> None:
    source = make_video(tmp_path / "a.mp4", 30, sounds=[("aac", seconds), ("mp3", seconds)])
    copy(source, tmp_path / "out.mp4")
    for track in (0, 1):
        assert sound_packets(tmp_path / "out.mp4", track) == sound_packets(source, track)
    assert film(tmp_path / "out.mp4") == film(source)


def test_sound_from_a_transport_stream_stays_in_step(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.ts", 30, sounds=[("aac", 1.2)])
    copy(source, tmp_path / "out.mp4")
    before = film_times(source)[0] - sound_packets(source)[0][0]
    after = film_times(tmp_path / "out.mp4")[0] - sound_packets(tmp_path / "out.mp4")[0][0]
    assert abs(before - after) < Fraction(1, 1000)


def test_sound_that_mp4_players_do_not_know_is_encoded(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mkv", 30, sounds=[("pcm_s16le", 1.2)])
    copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        track = container.streams.audio[0]
        assert track.codec_context.name == "aac"
        wave = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(track)])
    assert abs(len(wave) / 48000 - 1.2) < 0.05
    assert 0.1 < np.sqrt((wave[4800:48000] ** 2).mean()) < 0.25  # 8000 / 32768 / sqrt(2) = 0.173


def test_of_a_part_its_sound_is_written(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 75, sounds=[("aac", 3.0)])
    copy(source, tmp_path / "out.mp4", start_s=1.0, end_s=2.0)
    assert film(tmp_path / "out.mp4") == (25, 25, 1)
    inside = [(time - 1, data) for time, data in sound_packets(source) if 1 <= time < 2]
    written = sound_packets(tmp_path / "out.mp4")
    assert [data for _, data in written] == [data for _, data in inside]
    assert max(abs(a - b) for (a, _), (b, _) in zip(written, inside, strict=True)) < Fraction(1, 10000)


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_nothing_is_seen_before_close_and_the_old_file_stays_until_then(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    target.write_text("old")
    writer = VideoWriter(target, None, INFO)
    writer.write(flat((9, 9, 9)), 0)
    assert target.read_text() == "old"
    writer.abort()
    writer.abort()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(RunError, match="was given up"):
        writer.write(flat((9, 9, 9)), 1)


def test_without_a_frame_there_is_no_file(tmp_path: Path) -> None:
    VideoWriter(tmp_path / "a.mp4", None, INFO).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write_half() -> None:
        with VideoWriter(tmp_path / "a.mp4", None, INFO) as writer:
            writer.write(flat((9, 9, 9)), 0)
            raise error

    with pytest.raises(error):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", None, INFO) as writer:
        writer.write(flat((9, 9, 9)), 3)
        with pytest.raises(ValueError, match="does not come after 3"):
            writer.write(flat((9, 9, 9)), 3)
        with pytest.raises(ValueError, match="the video is"):
            writer.write(flat((9, 9, 9), (10, 10)), 4)
    assert len(read(tmp_path / "a.mp4")[0]) == 1


def test_a_folder_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written; found No such file"):
        VideoWriter(tmp_path / "no" / "a.mp4", None, INFO)


def test_without_an_encoder_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_writer, "_ENCODERS", ("no264",))
    with pytest.raises(MissingExtraError, match=r"cannot write H\.264"):
        VideoWriter(tmp_path / "a.mp4", None, INFO)
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import resource, sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from detkit.errors import RunError
from detkit.infer.frames import VideoInfo
from detkit.infer.video_writer import VideoWriter
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    writer = VideoWriter(Path(sys.argv[1]), None, VideoInfo((48, 64), Fraction(25), Fraction(1, 25)))
    for n in range(60):
        writer.write(np.random.default_rng(n).integers(0, 255, (48, 64, 3)).astype(np.uint8), n)
    writer.close()
except RunError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a full disk is played by a limit on the size of files")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999], ids=["at its start", "midway", "when the index is written"])
def test_a_full_disk_leaves_no_half_video(tmp_path: Path, share: float) -> None:
    target = tmp_path / "a.mp4"
    with VideoWriter(target, None, INFO) as writer:
        for n in range(60):
            writer.write(np.random.default_rng(n).integers(0, 255, (48, 64, 3)).astype(np.uint8), n)
    limit = int(target.stat().st_size * share)
    target.write_text("old")
    script = [sys.executable, "-c", FULL_DISK, str(target), str(limit)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == f"{target}: cannot be written; found File too large"
    assert done.returncode == 1
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


# --- real clips -------------------------------------------------------------------------------------------------------


def test_a_real_clip_with_sound(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "video" / "car-detection.mp4"
    copy(source, tmp_path / "out.mp4", end_s=6.0)
    assert film(tmp_path / "out.mp4") == (75, Fraction(25, 2), 6)
    inside = [data for time, data in sound_packets(source) if time < 6]
    assert [data for _, data in sound_packets(tmp_path / "out.mp4")] == inside


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["car-detection.mp4", "one-by-one-person-detection.mp4", "bottle-detection.mp4", "mot/FOD-01-LabelPliers.mp4"],
)
def test_whole_real_clips(shared_data: Path, tmp_path: Path, name: str) -> None:
    source = shared_data / "video" / name
    info = probe(source)
    copy(source, tmp_path / "out.mp4")
    assert film(tmp_path / "out.mp4") == film(source)
    assert film_times(tmp_path / "out.mp4") == film_times(source)
    assert probe(tmp_path / "out.mp4").size_hw == info.size_hw
    with av.open(str(source)) as container:
        tracks = len(container.streams.audio)
    for track in range(tracks):
        assert sound_packets(tmp_path / "out.mp4", track) == sound_packets(source, track)


def test_the_source_is_not_touched(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", 5)
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    copy(source, tmp_path / "out.mp4")
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
    assert as_item(source).path == source
