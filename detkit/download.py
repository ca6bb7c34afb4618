"""One file from one address: bounded, resumed where it broke off, and renamed into place once its sha256 is right."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from detkit.errors import RunError, WeightsError
from detkit.files import sha256_of

_PATIENCE_S = 30.0  # without a byte
_CHUNK_BYTES = 1 << 18
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """How far a download has come.

    Args:
        done_bytes: on disk, with what was there before.
        total_bytes: of the whole file, where the server says.
        kept_bytes: how much of it was there before.
    """

    done_bytes: int
    total_bytes: int | None
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server sends: the bytes from `start` on, of so many in all."""

    stream: Any
    start: int
    total_bytes: int | None


def download(url: str, target: Path, *, sha256: str, max_bytes: int) -> Iterator[DownloadReport]:
    """Fetch a file; what is broken off stays beside `target` as `NAME.part`, and the next call goes on from there.

    Args:
        url: https, or http on this machine.
        target: the file to write; its folder is made.
        sha256: of the whole file in hexadecimal, or as many of its first digits as are known.
        max_bytes: more than these are refused.
    Yields:
        A report for each part that has come.
    Raises:
        RunError: no such file there, no network, a broken connection, or nothing can be written here.
        WeightsError: too large, or not the file with this hash; then nothing of it is left.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = part.stat().st_size if part.is_file() else 0
        if kept and sha256_of(part).startswith(sha256):  # all there, but for its name
            part.replace(target)
            return
        for start in dict.fromkeys([kept if kept < max_bytes else 0, 0]):
            kept = yield from _fetch(url, part, start, max_bytes)
            digest = sha256_of(part)
            if digest.startswith(sha256):
                part.replace(target)
                return
            part.unlink()
            if not kept:  # else what was there before may have been of another file: once more, from the beginning
                break
    except OSError as error:
        raise RunError("cannot be written", file=target, found=error.strerror or str(error)) from error
    found, expected = f"sha256 {digest[:12]}...", f"{sha256[:12]}..."
    raise WeightsError("this is another file than the list of models means", file=url, found=found, expected=expected)


def _fetch(url: str, part: Path, start: int, max_bytes: int) -> Generator[DownloadReport, None, int]:
    """Write the file to `part`, whose first `start` bytes stay where the server can go on; returns how many stayed."""
    answer = _open(url, start)
    with answer.stream, part.open("ab" if answer.start else "wb") as file:
        done = answer.start
        if (answer.total_bytes or 0) > max_bytes:
            raise _too_large(url, answer.total_bytes, max_bytes, part)
        for data in _chunks(url, answer.stream):
            done += len(data)
            if done > max_bytes:
                raise _too_large(url, done, max_bytes, part)
            file.write(data)
            yield DownloadReport(done, answer.total_bytes, answer.start)
    if answer.total_bytes is not None and done < answer.total_bytes:
        raise _broken_off(url, f"{done:,} of {answer.total_bytes:,} bytes")
    return answer.start


def _open(url: str, start: int) -> _Answer:
    """Ask for the file from `start` on; a server that cannot do that sends all of it."""
    headers = {"User-Agent": "detkit", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    opener = urllib.request.build_opener(_CheckedRedirects)
    try:
        stream = opener.open(urllib.request.Request(_checked(url), headers=headers), timeout=_PATIENCE_S)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # it has no such bytes
            return _open(url, 0)
        raise RunError("cannot be downloaded", file=url, found=f"{error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise RunError("cannot be reached", file=url, found=_brief(reason)) from error
    length = stream.headers.get("Content-Length", "")
    rest = int(length) if length.isdecimal() else None
    if stream.status != 206:
        return _Answer(stream, 0, rest)
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", stream.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != start:
        stream.close()
        if start:
            return _open(url, 0)
        raise RunError("the server sends another part of the file than was asked for", file=url)
    return _Answer(stream, start, int(span[2]) if span[2] != "*" else None if rest is None else start + rest)


def _chunks(url: str, stream: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            data = stream.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _broken_off(url, _brief(error)) from error
        if not data:
            return
        yield data


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another address only where we would have gone ourselves."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, _checked(newurl))


def _checked(url: str) -> str:
    """The address, which nobody on the way can read or change."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _HERE):
        raise RunError("is no address to download from", file=url, expected="https://")
    return url


def _too_large(url: str, found: int | None, max_bytes: int, part: Path) -> WeightsError:
    part.unlink(missing_ok=True)
    return WeightsError("is larger than the list of models says", file=url, found=found, expected=f"up to {max_bytes}")


def _broken_off(url: str, found: str) -> RunError:
    return RunError("the download broke off; the same command goes on from there", file=url, found=found)


def _brief(reason: object) -> str:
    return str(getattr(reason, "strerror", None) or reason)[:100] or type(reason).__name__
