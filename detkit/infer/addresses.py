"""Sources that are no files: cameras and URLs. What is secret in a URL leaves this module in `Item.url` only."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from detkit import __version__
from detkit.data.folders import PHOTO_SUFFIXES
from detkit.errors import DataError, UsageError
from detkit.images import MAX_FILE_BYTES
from detkit.infer.frames import Item

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.request import Request

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "http", "https", "udp", "tcp", "srt")

_LISTENING = ("udp", "tcp", "srt", "rtp")  # these need no host: udp://@:1234
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_CAMERA = re.compile(r"(?:cam:?|/dev/video)([0-9]{1,3})|([0-9]{1,2})")
_SECRET = re.compile(  # in the query, or in the path, where some cameras want it
    r"((?:user|usr|login|pass|pswd|pwd|psw|token|key|auth|secret|sig)[a-z_-]*=)[^&;#/?]*", re.IGNORECASE
)
_LONGEST_NAME = 100
_FETCH_TIMEOUT_S = 30.0


def camera_item(source: str) -> Item | None:
    """The camera that "0", "cam0", "cam:0" or "/dev/video0" means, or None; whether it is there shows on opening."""
    match = _CAMERA.fullmatch(source)
    if match is None:
        return None
    number = int(match[1] or match[2])
    device = f"/dev/video{number}" if sys.platform.startswith("linux") else str(number)
    return Item(f"cam{number}", Path(f"cam{number}"), "stream", url=device)


def url_item(source: str) -> Item | None:
    """The stream of a URL, or None where the source is none.

    The URL of a photo (http or https, by its suffix) is a photo, which `fetch_photo` reads.

    Raises:
        UsageError: a URL of a kind that is not read.
    """
    if not _URL.match(source):
        return None
    name = masked(source)
    try:
        parts = urlsplit(source)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        expected = "%2F for a / in the password" if "***@" in name else None
        raise UsageError("is no valid URL", file=name, expected=expected) from error
    if parts.scheme not in SCHEMES:
        expected = "a path, or " + ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError("is a kind of URL that is not read", file=name, expected=expected)
    if not has_host and parts.scheme not in _LISTENING:
        raise UsageError("is no valid URL", file=name, expected="a host")
    if parts.scheme in ("http", "https") and PurePosixPath(parts.path).suffix.lower() in PHOTO_SUFFIXES:
        leaf = PurePosixPath(unquote(parts.path))
        return Item(name, Path(_file_name(leaf.stem) + leaf.suffix.lower()), "photo", url=source)
    return Item(name, Path(_file_name(name.partition("://")[2].replace("***", ""))), "stream", url=source)


def masked(url: str) -> str:
    """The URL with *** for user, password and what looks like a key: fit for output."""
    scheme, mark, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host or (":" in host and "@" in rest):  # the second: a password with a slash, which should be %2F
        at = host.rindex("@") if "@" in host else rest.rindex("@")
        rest = rest[at:] if at == 0 else f"***{rest[at:]}"
    return scheme + mark + _SECRET.sub(r"\1***", rest)


def fetch_photo(url: str, name: str) -> bytes:
    """Read a photo over HTTP.

    Args:
        url: with user and password where they are needed.
        name: what to call it in error messages.
    Raises:
        DataError: it cannot be had, or is larger than 1 GiB.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(_request(url), timeout=_FETCH_TIMEOUT_S) as response:
            data = _up_to(MAX_FILE_BYTES, response)
    except HTTPError as error:
        raise DataError("cannot be fetched", file=name, found=f"HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise DataError("cannot be fetched", file=name, found=error.reason) from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a host that no host can be called
        raise DataError("cannot be fetched", file=name, found=type(error).__name__) from error
    if data is None:
        raise DataError("is too large for an image", file=name, expected="up to 1 GiB")
    return data


def _up_to(limit: int, stream: HTTPResponse) -> bytes | None:
    """All there is, or None where that is more than `limit` bytes."""
    parts, size = [], 0
    while part := stream.read(1 << 20):
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
    return b"".join(parts)


def _file_name(text: str) -> str:
    """Letters, digits, _ and - only (a dot would start a suffix), and not too many of them."""
    name = re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "stream"
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 9]}-{zlib.crc32(text.encode(errors='replace')):08x}"
    return name


def _request(url: str) -> Request:
    """A request that gives user and password to this host alone, and not in the URL."""
    from urllib.request import Request

    parts: SplitResult = urlsplit(url)
    request = Request(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    request.add_header("User-Agent", f"detkit/{__version__}")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair).decode())
    return request
