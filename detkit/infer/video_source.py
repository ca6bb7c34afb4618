"""What ffmpeg opens for us: video files, videos inside archives, stream URLs and cameras."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO

from detkit.errors import DataError
from detkit.infer.frames import Item

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

OPEN_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 10.0  # a stream that gives nothing for so long has broken off

_MP4_MARK = b"ftyp"
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD")
_CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


def open_source(item: Item) -> InputContainer:
    """Open a video file, or a stream, which may take as long as `OPEN_TIMEOUT_S` (Ctrl-C is heard all the while).

    A file is only ever read itself: a playlist, which points elsewhere, is refused.

    Raises:
        DataError: it cannot be opened: no such file, no video, no such camera, no answer.
    """
    import av

    try:
        return _open_stream(item.url or item.name) if item.kind == "stream" else _open_file(item)
    except (av.FFmpegError, OSError, ValueError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise _refused(item, error) from error


def video_stream(container: InputContainer, item: Item) -> VideoStream:
    """The stream with the film; a cover picture is none.

    Raises:
        DataError: there is no such stream, or no decoder for it.
    """
    from av.stream import Disposition

    films = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    if not films:
        found = " and ".join(sorted({str(one.type) for one in container.streams})) or "nothing"
        raise DataError("has no moving picture", file=item.name, found=found, expected="a video stream")
    if films[0].codec_context is None:
        raise DataError("is in a coding that cannot be read", file=item.name, expected="H.264, H.265, VP9, AV1, ...")
    return films[0]


def _open_file(item: Item) -> InputContainer:
    import av

    if item.member is None and item.data is None:
        _refuse_playlist(item)
        where = f"file:{item.path or item.name}"  # a bare "a:b.mp4" would be taken for a protocol "a"
        return av.open(where, metadata_errors="replace", container_options={"protocol_whitelist": "file"})
    return av.open(_unpacked(item), "r", metadata_errors="replace")


def _refuse_playlist(item: Item) -> None:
    """Raise DataError for a text that sends ffmpeg elsewhere, where it may wait for ever."""
    path = Path(item.path or item.name)
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise DataError("is a device, pipe or folder", file=item.name, expected="a video file")
    with path.open("rb") as file:
        start = file.read(16).lstrip()
    if start.startswith(_PLAYLISTS):
        raise DataError("is a text that points to videos", file=item.name, expected="a video file")


def _unpacked(item: Item) -> BinaryIO:
    """A video that is not a file of its own, as a seekable file."""
    if item.data is not None:
        return BytesIO(item.data)
    path, member = Path(item.path or ""), item.member or ""
    if zipfile.is_zipfile(path):
        return zipfile.ZipFile(path).open(member)  # type: ignore[return-value]  # closed with the container
    unpacked = tarfile.open(path).extractfile(member)  # noqa: SIM115  (closed with the container)
    if unpacked is None:
        raise KeyError(member)
    return unpacked  # type: ignore[return-value]


def _open_stream(url: str) -> InputContainer:
    """Open in a thread of its own, for ffmpeg does not let go of the calling one before it has an answer."""
    import av

    arguments = _stream_arguments(url)
    outcome: list[InputContainer | BaseException] = []

    def work() -> None:
        try:
            timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S)
            outcome.append(av.open(mode="r", metadata_errors="replace", timeout=timeout, **arguments))
        except BaseException as error:  # noqa: BLE001  (raised again by the caller)
            outcome.append(error)

    thread = Thread(target=work, name="detkit-open", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _stream_arguments(url: str) -> dict[str, Any]:
    """What `av.open` needs for a URL, or for a camera: its number or its device."""
    platform = "linux" if sys.platform.startswith("linux") else sys.platform
    if url.isdecimal() or url.startswith(("/dev/", "video=")):
        device = f"/dev/video{url}" if url.isdecimal() and platform == "linux" else url
        return {"file": device, "format": _CAMERA_FORMATS.get(platform, "v4l2")}
    scheme = url.partition(":")[0].lower()
    if scheme in ("rtsp", "rtsps"):
        return {"file": url, "container_options": {"rtsp_transport": "tcp"}}  # over UDP pictures come torn
    if scheme == "udp":
        timeout = str(int(READ_TIMEOUT_S * 1e6))  # microseconds
        return {"file": url, "container_options": {"timeout": timeout, "overrun_nonfatal": "1"}}
    return {"file": url}


def _refused(item: Item, error: Exception) -> DataError:
    found = getattr(error, "strerror", None) or str(error)
    if item.kind == "stream":
        found = "no answer in time" if "xit requested" in found else found.replace(item.url or item.name, item.name)
        expected = "a camera, or an rtsp, http or udp URL that gives video"
        return DataError("the stream cannot be opened", file=item.name, found=found, expected=expected)
    if _is_cut_mp4(item):
        found = "an mp4 without its index (moov): a recording that was cut off before it was finished"
    return DataError(
        "cannot be read as a video", file=item.name, found=found, expected="an mp4, mov, mkv, webm, avi ..."
    )


def _is_cut_mp4(item: Item) -> bool:
    """Whether the file begins as an mp4 does (and was refused all the same)."""
    if item.path is None or item.member is not None:
        return False
    try:
        with Path(item.path).open("rb") as file:
            return file.read(12)[4:8] == _MP4_MARK
    except OSError:
        return False
