"""What an ONNX file says of itself before a runtime loads it: its ends, and the other files it wants to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from detkit.errors import WeightsError
from detkit.model_header import protobuf_fields, read_header_text

_MAX_TEXT_BYTES = 4096  # of a name or a location
_MAX_DEPTH = 96  # of messages; a graph within a graph is three deeper
_MOST_FIELDS = 2_000_000  # seconds' walk; a network of a thousand layers takes a hundredth
_MOST_NUMBERS = 1 << 40  # a terabyte of bytes; "this or more"
_NUMBERS_PER_BYTE = 8  # of the narrowest type there could be
_STRIDES = (8, 16, 32)  # of the maps of the YOLO family, in pixels
_END2END_ROWS = 1000  # what networks with non-max suppression inside give at most

# The messages that may hold tensors, and the fields where: ONNX's ModelProto, GraphProto, NodeProto and so on.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DIMS, _NAME, _EXTERNAL = 1, 8, 13  # of a TensorProto; the last says where its numbers are in another file
_DATA = (4, 5, 6, 7, 9, 10, 11)  # its numbers by type, or raw


class End(NamedTuple):
    """An input or output of a graph; None is a length the file leaves open, and () is any shape."""

    name: str
    shape: tuple[int | None, ...]


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file before a runtime takes it at its word.

    It may read no file outside its own folder, which runtimes before 2026 would do, and a tensor may claim no more
    numbers than are stored, over which today's take gigabytes or hang.

    Raises:
        WeightsError: it does, or it is damaged.
    """
    folder = path.parent.resolve()
    for location in external_files(path):
        found = repr(location if len(location) <= 60 else location[:57] + "...")
        try:
            target = (folder / location).resolve()
            is_there = target.is_file()
            is_inside = not Path(location).is_absolute() and target.is_relative_to(folder)
        except (OSError, ValueError, RuntimeError):  # no name for a file, or links in a circle
            is_there = is_inside = False
        if not is_inside:
            expected = f"a file in {folder}"
            raise WeightsError("wants to read outside its folder", file=path, found=found, expected=expected)
        if not is_there:
            raise WeightsError("its data are in another file, which is missing", file=path, found=found)


def external_files(path: Path) -> list[str]:
    """The files an ONNX file takes tensors from, as it names them; [] for almost every file.

    Raises:
        WeightsError: it cannot be read, is damaged, or a tensor claims more numbers than it has.
    """
    with _opened(path) as stream:
        return list(dict.fromkeys(_Walk(stream, path).locations("model", 0, stream.seek(0, 2))))


def read_ends(path: Path) -> tuple[list[End], list[End]]:
    """The inputs and outputs of an ONNX file's graph.

    Raises:
        WeightsError: it cannot be read, or is damaged.
    """
    ends: dict[int, list[End]] = {11: [], 12: []}
    weights: set[str] = set()  # which old files list among the inputs
    with _opened(path) as stream:
        walk = _Walk(stream, path)
        graphs = [(at, n) for field, at, n in walk.fields(0, stream.seek(0, 2)) if field == 7]
        for field, at, length in (inner for graph in graphs for inner in walk.fields(*graph)):
            if field in ends:
                ends[field].append(walk.end(at, length))
            elif field == 5:
                weights.update(walk.texts(at, length, 8))
    return [end for end in ends[11] if end.name not in weights], ends[12]


def adapter_of_file(path: Path) -> str | None:
    """`likely_adapter` of a file, where its shapes or Ultralytics' metadata tell; else None, as for other files."""
    if path.suffix.lower() != ".onnx":
        return None
    try:
        found = likely_adapter(*read_ends(path))
        if found is None and read_header_text(path, "stride") is not None:
            found = "yolov5" if read_header_text(path, "task") is None else "yolov8"
            return "end2end" if read_header_text(path, "end2end") == "True" else found
    except WeightsError:
        return None
    return found


def likely_adapter(inputs: Sequence[End], outputs: Sequence[End]) -> str | None:
    """Which adapter a detector of another project probably needs, by the shapes of its ends; None where they fit none.

    The rows of a YOLO head are counted by its input: one for each cell of maps with strides 8, 16 and 32 px.
    """
    if any(end.shape[-1:] == (4,) for end in outputs) and len(outputs) > 1:
        return "boxes-scores"
    tables = [end.shape for end in outputs if len(end.shape) == 3]
    if len(tables) != 1:
        return None
    _, first, last = tables[0]
    cells = _cells(inputs[0].shape) if inputs else None
    if last == 6 and (first is None or (first <= _END2END_ROWS and first not in (cells, 3 * (cells or 0)))):
        return "end2end"
    if last is not None and (last == cells or (first is not None and 5 <= first < last)):
        return "yolov8"
    if first is None or last is None or last < 6 or first <= last:
        return None
    return "yolox" if first == cells else "yolov5"


def _cells(input_shape: Sequence[int | None]) -> int | None:
    """Cells of the three maps for an input [B, 3, H, W] or [B, H, W, 3]."""
    if len(input_shape) != 4:
        return None
    height, width = input_shape[2:] if input_shape[1] == 3 else input_shape[1:3]
    if height is None or width is None:
        return None
    return sum((height // stride) * (width // stride) for stride in _STRIDES)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", file=path) from error


class _Walk:
    """A walk through the messages of one file, which may be long and deep only so far."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, _MOST_FIELDS

    def fields(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """The fields of a message: number, where the value starts, bytes."""
        self._stream.seek(start)
        for field in protobuf_fields(self._stream, start + length, self._path):
            self._left -= 1
            if self._left < 0:
                raise self._endless()
            yield field

    def locations(self, kind: str, start: int, length: int, depth: int = 0) -> Iterator[str]:
        """The entry "location" of every external tensor in a message of this kind; every tensor is checked."""
        if depth > _MAX_DEPTH:
            raise self._endless()
        inner_kinds = _FIELDS[kind]
        for field, at, count in self.fields(start, length):
            inner = inner_kinds.get(field)
            if inner == "tensor":
                yield from self._tensor(at, count)
            elif inner is not None:
                yield from self.locations(inner, at, count, depth + 1)

    def _tensor(self, start: int, length: int) -> Iterator[str]:
        """The files a TensorProto names, after a look at its dimensions."""
        claimed, stored, name, is_external = 1, 0, "", False
        for field, at, count in list(self.fields(start, length)):
            if field == _DIMS:
                for side in self._numbers(at, count):
                    claimed = min(claimed * side, _MOST_NUMBERS)
            elif field in _DATA:
                stored += max(count, 1)
            elif field == _NAME:
                name = self._text(at, count)
            elif field == _EXTERNAL:
                is_external = True
                if self.texts(at, count, 1)[-1:] == ["location"]:
                    yield "".join(self.texts(at, count, 2)[-1:])
        if claimed > _NUMBERS_PER_BYTE * max(stored, 1) and not (is_external and claimed < _MOST_NUMBERS):
            what = f"the tensor {name[:60]!r} claims more numbers than the file holds"
            raise WeightsError(what, file=self._path, found=f"{stored:,} bytes", expected=f"{claimed:,} numbers")

    def texts(self, start: int, length: int, wanted: int) -> list[str]:
        """The texts a message holds under a field number."""
        found = []
        for field, at, count in self.fields(start, length):
            if field == wanted:
                found.append(self._text(at, count))
        return found

    def end(self, start: int, length: int) -> End:
        """A ValueInfoProto: its name, and the shape in the type of a tensor."""
        lengths: list[int | None] = []
        spans = [(start, length)]
        for wanted in (2, 1, 2, 1):  # type, tensor_type, shape, dim
            spans = [(at, count) for span in spans for field, at, count in self.fields(*span) if field == wanted]
        for span in spans:
            value = [at for field, at, _ in self.fields(*span) if field == 1]  # dim_value
            number = self._numbers(value[-1], 10)[:1] if value else []
            lengths.append(number[0] if number and number[0] < 1 << 63 else None)  # below 0 counts as open
        return End("".join(self.texts(start, length, 1)[-1:]), tuple(lengths))

    def _text(self, at: int, count: int) -> str:
        self._stream.seek(at)
        return self._stream.read(min(count, _MAX_TEXT_BYTES)).decode("utf-8", "replace")

    def _numbers(self, at: int, count: int) -> list[int]:
        """The integers in these bytes, one or packed; one below 0 comes out huge, as protobuf has it."""
        self._stream.seek(at)
        found, value, shift = [], 0, 0
        for byte in self._stream.read(min(count, _MAX_TEXT_BYTES)):
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(value)
                value = shift = 0
        return found

    def _endless(self) -> WeightsError:
        return WeightsError("is no ONNX file that a runtime made: too long or too deep", file=self._path)
