"""The engine for detectors of other projects: an ONNX file without a model card, read as an `Adapter` says."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detkit.coco_names import COCO_NAMES
from detkit.engines import Outputs
from detkit.engines.adapters import PRESETS, Adapter, Tables, decode, grid_cells, pixels
from detkit.engines.graph import Port, check_batch, in_batches, joined, refuse, thread_count
from detkit.engines.onnx import open_session, reason
from detkit.errors import UsageError, WeightsError
from detkit.model_header import read_header_text
from detkit.onnx_header import End, likely_adapter
from detkit.weights import CARD_KEY, ModelCard

_MAX_NAMES_CHARS = 1 << 20
_INPUTS = ("float32", "float16", "uint8")


class _Face(NamedTuple):
    """The ends of a graph that are used: lengths that are no int are open."""

    input: Port
    channels_first: bool
    outputs: tuple[Port, ...]  # in the order of `Tables`


class ForeignEngine:
    """Runs a detector of another project in onnxruntime; its card is made up from the adapter and the class names."""

    name = "onnxruntime"

    def __init__(
        self,
        path: Path | str,
        adapter: Adapter,
        class_names: Sequence[str] | None = None,
        *,
        threads: int | None = None,
        parallel: int = 1,
    ) -> None:
        """Load the network and check it against the adapter.

        Args:
            path: an `.onnx` file without a model card.
            adapter: how it is to be read.
            class_names: in label order; None takes those in the file, where it has some.
            threads, parallel: see `OnnxEngine`.
        Raises:
            WeightsError: unusable file, or outputs that do not fit the adapter or the class names.
            UsageError: it has a model card; the class names or the size of its canvas are not known.
        """
        self.path, self.parallel, self._adapter = Path(path), parallel, adapter
        if read_header_text(self.path, CARD_KEY) is not None:
            raise UsageError("has a detkit model card, which says all an adapter would", file=self.path)
        if self.path.suffix.lower() != ".onnx":
            raise WeightsError("an adapter reads .onnx files", file=self.path)
        self._session, inputs, outputs = open_session(self.path, thread_count(threads, parallel))
        metadata = _metadata(self._session, self.path)
        self._face = _face(inputs, outputs, adapter, self.path)
        own_names = _names_in(metadata, self.path)
        names = own_names if class_names is None else tuple(class_names)
        self.card = ModelCard(
            "foreign",
            {"adapter": {key: value for key, value in asdict(adapter).items() if value not in ("", None)}},
            _checked_names(names, self._face, adapter, self.path),
            _canvas_hw(self._face, adapter, metadata, self.path),
            fit=adapter.fit,
            pad_value=adapter.pad_value,
            thresholds={"conf": adapter.conf, "iou": adapter.iou},
            licences={"weights": metadata["license"]} if metadata.get("license", "").strip() else {},
        )
        self._check_rows()

    def run(self, batch_rgb: NDArray[np.uint8]) -> Outputs:
        """Run the network; threads may share the engine.

        Args:
            batch_rgb: uint8 [B, H, W, 3] RGB canvases.
        Raises:
            WeightsError: the network fails on them, or gives what does not fit the adapter.
        """
        port = self._face.input
        whole = port if len(port.shape) == 4 else port._replace(shape=[1])  # one without B takes one at a time
        return joined([self._run(part, count) for part, count in in_batches(batch_rgb, whole)])

    def _run(self, batch_rgb: NDArray[np.uint8], count: int) -> Outputs:
        """What it says of the first `count` canvases."""
        face, adapter = self._face, self._adapter
        given = pixels(batch_rgb, adapter, face.input.dtype, channels_first=face.channels_first)
        single = len(face.input.shape) == 3
        try:
            names = [port.name for port in face.outputs]
            arrays = self._session.run(names, {face.input.name: given[0] if single else given})
        except Exception as error:  # noqa: BLE001  (onnxruntime's exceptions have no common class)
            refuse(self.path, f"the network fails on canvases of shape {given.shape}", reason(error), error)
        ranks = (3, 2 if adapter.labels_output or len(arrays) == 3 else 3, 2)
        arrays = [array[None] if array.ndim == rank - 1 else array for array, rank in zip(arrays, ranks, strict=False)]
        height, width = batch_rgb.shape[1:3]
        try:
            for array, rank in zip(arrays, ranks, strict=False):
                if array.ndim != rank or len(array) != len(batch_rgb):
                    raise ValueError(f"an array of shape {array.shape} for {len(batch_rgb)} canvases")
            tables = Tables(*(array[:count] for array in arrays))
            return decode(tables, adapter, (height, width), len(self.card.class_names))
        except (ValueError, IndexError) as error:
            raise WeightsError(f"its outputs do not fit the adapter: {error}", file=self.path) from error

    def _check_rows(self) -> None:
        """A grid has as many rows as its maps have cells; where they differ, the pixels would be given wrongly."""
        shape, cells = self._face.outputs[0].shape, grid_cells(self.card.input_hw)
        rows = shape[-2] if len(shape) > 1 else None
        if self._adapter.layout == "grid" and isinstance(rows, int) and rows != cells:
            found, expected = f"{rows} rows", f"{cells}, one for each cell of maps with strides 8, 16 and 32 px"
            raise WeightsError("its outputs do not fit the layout grid", file=self.path, found=found, expected=expected)


def read_names(source: str) -> tuple[str, ...]:
    """Class names in label order: "coco" for COCO's 80, else a file: one name a line, or a data.yaml.

    Raises:
        DataError: the file cannot be read, or has no names, or one twice.
    """
    if source == "coco":
        return COCO_NAMES
    path = Path(source)
    if path.suffix.lower() in (".yaml", ".yml"):
        from detkit.data.findings import stop
        from detkit.data.yolo_config import class_names, load_yaml

        return class_names(path.parent, load_yaml(path), path, stop)
    from detkit.data.label_files import checked_class_names, read_lines

    return checked_class_names(read_lines(path), path)


def _face(inputs: Sequence[Port], outputs: Sequence[Port], adapter: Adapter, path: Path) -> _Face:
    """The ends that are used.

    Raises:
        WeightsError: there are others, or of other shapes.
    """
    port = inputs[0] if len(inputs) == 1 else None
    axes = list(port.shape)[-3:] if port is not None and len(port.shape) in (3, 4) else []
    if port is None or port.dtype not in _INPUTS or not axes or 3 not in (axes[0], axes[2]):
        found, expected = _listed(inputs), "one image: float or uint8 [B, 3, H, W] or [B, H, W, 3]"
        raise WeightsError("the network's input", file=path, found=found, expected=expected)
    if len(port.shape) == 4:
        check_batch(port, path)
    used = _boxes_scores(outputs, adapter) if adapter.layout == "boxes-scores" else _table(outputs, adapter)
    if used is None:
        likely = likely_adapter(_ends(inputs), _ends(outputs))
        hint = f" (it looks like {likely})" if likely and PRESETS[likely][0] != f"layout={adapter.layout}" else ""
        expected = _EXPECTED[adapter.layout] + hint
        raise WeightsError("the network's outputs", file=path, found=_listed(outputs), expected=expected)
    return _Face(port, axes[0] == 3, used)


_EXPECTED = {
    "grid": "one table [B, N, 5+K], a row for each cell",
    "objectness": "one table [B, N, 5+K], a row for each box",
    "classes": "one table [B, 4+K, N], a column for each box",
    "rows": "one table [B, N, 6]",
    "boxes-scores": "boxes [B, N, 4] and scores [B, N, K], or scores and labels [B, N]; where shapes do not tell them "
    "apart, --adapter boxes_output=NAME and --adapter scores_output=NAME",
}


def _table(outputs: Sequence[Port], adapter: Adapter) -> tuple[Port, ...] | None:
    """The one output of three axes (or two, without B), with lengths that the layout may have."""
    tables = [port for port in outputs if len(port.shape) in (0, 3)]
    tables = tables or [port for port in outputs if len(port.shape) == 2]
    if len(tables) != 1:
        return None
    first, last = tables[0].shape[-2:] if tables[0].shape else (None, None)
    columns = first if adapter.layout == "classes" else last
    rows = last if adapter.layout == "classes" else first
    least = 5 if adapter.layout == "classes" else 6
    if isinstance(columns, int) and (columns < least or (adapter.layout == "rows" and columns != least)):
        return None
    taller = isinstance(columns, int) and isinstance(rows, int) and columns > rows and adapter.layout != "rows"
    return None if taller else (tables[0],)


def _boxes_scores(outputs: Sequence[Port], adapter: Adapter) -> tuple[Port, ...] | None:
    """Boxes, scores and, where there are some, labels: by the names given, else by what only one output can be."""
    by_name = {port.name: port for port in outputs}
    named = (adapter.boxes_output, adapter.scores_output, adapter.labels_output)
    if any(name and name not in by_name for name in named):
        return None
    free = [port for port in outputs if port.name not in named]

    def one(name: str, *fits: bool) -> Port | None:
        if name:
            return by_name[name]
        found = [port for port, is_fit in zip(free, fits, strict=True) if is_fit]
        return found[0] if len(found) == 1 else None

    labels = one(adapter.labels_output, *("int" in port.dtype for port in free))
    free = [port for port in free if port is not labels]
    boxes = one(adapter.boxes_output, *(port.shape[-1:] == [4] for port in free))
    free = [port for port in free if port is not boxes and port.dtype.startswith("float")]
    scores = one(adapter.scores_output, *(True for _ in free))
    if boxes is None or scores is None:
        return None
    return (boxes, scores) if labels is None else (boxes, scores, labels)


def _checked_names(names: tuple[str, ...] | None, face: _Face, adapter: Adapter, path: Path) -> tuple[str, ...]:
    """The class names, as many as the network has scores for."""
    count = _class_count(face, adapter)
    if names is None:
        wanted = "a file with the class names" if count is None else f"a file with its {count} class names"
        raise UsageError("does not say its class names: add --names", file=path, expected=wanted + ", one a line")
    if count is not None and count != len(names):
        found = f"{len(names)} class names"
        raise WeightsError("the network's outputs", file=path, found=found, expected=f"{count}, as it has scores for")
    return names


def _class_count(face: _Face, adapter: Adapter) -> int | None:
    """K, where the graph tells."""
    if adapter.layout == "rows" or len(face.outputs) == 3:
        return None
    shape = face.outputs[-1].shape
    length = shape[-2 if adapter.layout == "classes" else -1] if shape else None
    if not isinstance(length, int):
        return None
    beside = {"grid": 5, "objectness": 5, "classes": 4, "boxes-scores": adapter.background != "none"}
    return length - beside[adapter.layout]


def _canvas_hw(face: _Face, adapter: Adapter, metadata: Mapping[str, str], path: Path) -> tuple[int, int]:
    """The size of the canvas: the graph's, else what was asked for, else what Ultralytics' metadata name."""
    axes = list(face.input.shape)[-3:]
    sides = axes[1:] if face.channels_first else axes[:2]
    height, width = (side if isinstance(side, int) and side > 0 else None for side in sides)
    size_px = adapter.size_px
    if height is not None and width is not None:
        if size_px is not None and (height, width) != (size_px, size_px):
            raise UsageError("the network looks at its own size only", file=path, expected=f"{width}x{height} px")
        return height, width
    if size_px is not None:
        return height or size_px, width or size_px
    known = _literal(metadata.get("imgsz", ""))
    if isinstance(known, list) and len(known) == 2 and all(type(side) is int and 0 < side <= 4096 for side in known):
        return known[0], known[1]
    raise UsageError("the network takes any size", file=path, expected="--adapter size_px=640, or as it was trained")


def _metadata(session: Any, path: Path) -> Mapping[str, str]:
    """The texts the file carries beside its network."""
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except ValueError as error:  # bytes that are no text
        raise WeightsError("damaged: its metadata are not UTF-8 text", file=path) from error


def _names_in(metadata: Mapping[str, str], path: Path) -> tuple[str, ...] | None:
    """The class names Ultralytics' exports carry, a Python dict or list as text; None where there are none.

    Raises:
        WeightsError: the file is for another task than detection.
    """
    if metadata.get("task", "detect") != "detect":
        found = repr(metadata["task"][:20])
        raise WeightsError("is a network for another task", file=path, found=found, expected="'detect'")
    names = _literal(metadata.get("names", ""))
    if isinstance(names, dict) and list(names) == list(range(len(names))):
        names = list(names.values())
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        return None
    return tuple(names) if names and len(set(names)) == len(names) else None


def _literal(text: str) -> Any:
    """The value of a Python literal, which runs no code; None for anything else."""
    if len(text) > _MAX_NAMES_CHARS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _ends(ports: Sequence[Port]) -> list[End]:
    return [End(port.name, tuple(n if isinstance(n, int) else None for n in port.shape)) for port in ports]


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(str(port) for port in ports)
