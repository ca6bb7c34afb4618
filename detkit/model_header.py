"""The texts a model file carries in its header, read without loading the model or trusting a single byte of it."""

from __future__ import annotations

import json
import xml.parsers.expat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from detkit.errors import WeightsError

SUFFIXES = (".onnx", ".safetensors", ".xml")

_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # torch's files are zipped pickles
_MAX_HEADER_BYTES = 16 << 20  # a header with ten thousand tensors takes 1 MB
_MAX_ONNX_FIELDS = 100_000  # a model has one graph and a few fields beside it
_MAX_XML_BYTES = 32 << 20  # OpenVINO's, a network of a thousand layers takes 1 MB; expat reads 100 MB/s
_XML_METADATA = ["net", "rt_info"]


def read_header_text(path: Path, key: str) -> str | None:
    """The metadata text under `key` in an .onnx or .safetensors file or OpenVINO's .xml, or None.

    Args:
        path: the model file.
        key: name of the metadata entry.
    Raises:
        WeightsError: missing, empty, damaged, of another kind, or a pickle (which could run code).
    """
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise _pickle_refused(path)
    try:
        with path.open("rb") as stream:
            return _text(stream, path, key)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error


def parse_json(text: str, file: Path | str | None = None) -> Any:
    """Parse strict JSON (no NaN).

    Raises:
        WeightsError: it is not JSON.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"damaged: its header is not JSON ({str(error)[:60]})", file=file) from error


def _text(stream: BinaryIO, path: Path, key: str) -> str | None:
    size = stream.seek(0, 2)
    stream.seek(0)
    start = stream.read(9)
    stream.seek(0)
    if not start:
        raise WeightsError("is empty", file=path)
    if path.suffix.lower() == ".safetensors" and start[8:] == b"{":
        return _safetensors_text(stream, size, path, key)
    if start.startswith(_PICKLE_MAGIC):
        raise _pickle_refused(path)
    if path.suffix.lower() == ".safetensors":
        raise WeightsError("is no safetensors file, or a damaged one", file=path)
    if path.suffix.lower() == ".xml":
        return _openvino_text(stream, size, path, key)
    if path.suffix.lower() != ".onnx":
        raise WeightsError("unknown kind of model file", file=path, expected=" or ".join(SUFFIXES))
    for name, value in _onnx_metadata(stream, size, path):
        if name == key.encode():
            return _utf8(value, path)
    return None


def _pickle_refused(path: Path) -> WeightsError:
    return WeightsError("is a pickle, which can run code, and is refused; give an .onnx or .safetensors", file=path)


def _safetensors_text(stream: BinaryIO, size: int, path: Path, key: str) -> str | None:
    length = int.from_bytes(stream.read(8), "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise WeightsError("damaged: its header is longer than the file or than any real one", file=path)
    header = parse_json(_utf8(stream.read(length), path), path)
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    text = metadata.get(key) if isinstance(metadata, dict) else None
    if text is not None and not isinstance(text, str):
        raise WeightsError("damaged: its metadata is not text", file=path)
    return text


def _openvino_text(stream: BinaryIO, size: int, path: Path, key: str) -> str | None:
    """The value of the element `key` among those that OpenVINO keeps for the network as a whole."""
    if size > _MAX_XML_BYTES:
        raise WeightsError("is too large for an OpenVINO network", file=path, found=f"{size:,} bytes")
    within: list[str] = []
    found: list[str] = []

    def begin(name: str, attributes: dict[str, str]) -> None:
        if within == _XML_METADATA and name == key and "value" in attributes:
            found.append(attributes["value"])
        within.append(name)

    def refuse(*_: object) -> None:  # the door to entities, which can make a small file huge or read another
        raise WeightsError("holds a document type declaration, which is refused", file=path)

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begin, lambda _: within.pop()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.ParseFile(stream)
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        raise WeightsError(f"is no OpenVINO network, or a damaged one: {error}", file=path) from error
    return found[0] if found else None


def _onnx_metadata(stream: BinaryIO, size: int, path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The `metadata_props` of an ONNX file (field 14 of the protobuf message ModelProto), skipping over its graph."""
    for number, start, length in protobuf_fields(stream, size, path):
        if number != 14 or length > _MAX_HEADER_BYTES:
            continue
        entry = {}
        for inner, at, count in protobuf_fields(stream, start + length, path):
            stream.seek(at)
            entry[inner] = stream.read(count)
        yield entry.get(1, b""), entry.get(2, b"")
        stream.seek(start + length)


def protobuf_fields(stream: BinaryIO, end: int, path: Path) -> Iterator[tuple[int, int, int]]:
    """Each field of the protobuf message that goes from here to `end`: (number, where its value starts, bytes)."""
    position = stream.tell()
    for _ in range(_MAX_ONNX_FIELDS):
        if position == end:
            return
        stream.seek(position)
        number, wire_type = divmod(_varint(stream, path), 8)
        if wire_type == 2:
            length = _varint(stream, path)
            position = stream.tell()
        else:
            position = stream.tell()
            fixed = {1: 8, 5: 4}.get(wire_type)
            length = fixed if fixed is not None else _varint_length(stream, path) if wire_type == 0 else end + 1
        if number == 0 or position + length > end:
            break
        yield number, position, length
        position += length
    raise WeightsError("is no ONNX file, or a damaged or truncated one", file=path)


def _varint_length(stream: BinaryIO, path: Path) -> int:
    start = stream.tell()
    _varint(stream, path)
    return stream.tell() - start


def _varint(stream: BinaryIO, path: Path) -> int:
    """Protobuf's integer: seven bits a byte, lowest first, the eighth bit says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise WeightsError("is no ONNX file, or a damaged or truncated one", file=path)


def _utf8(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WeightsError("damaged: its header is not UTF-8 text", file=path) from error
