"""What the engines that run an exported graph share: their threads, and whether graph and arrays fit the model card."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from detkit.engines import Outputs, usable_cores
from detkit.errors import WeightsError
from detkit.weights import ModelCard

_MOST_CANVASES = 1024  # that a graph can be made for


class Port(NamedTuple):
    """One input or output of a graph: dtype in NumPy's words; a length that is no int may be any, [] is any shape."""

    name: str
    dtype: str
    shape: Sequence[Any]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(str(length) for length in self.shape)}]"


def thread_count(threads: int | None, parallel: int = 1) -> int:
    """Threads to ask a runtime for in one run; 0 leaves it to the runtime, which takes one for each physical core.

    Args:
        threads: what the caller wants, or None: its share of the cores, where they are shared by runs at a time or
            are not all of the machine's (a container, taskset), because runtimes count the machine's.
        parallel: runs at a time.
    """
    usable = usable_cores()
    restricted = usable < (os.cpu_count() or 1)
    return threads or (max(1, usable // parallel) if restricted or parallel > 1 else 0)


def checked_outputs(inputs: Sequence[Port], outputs: Sequence[Port], card: ModelCard, path: Path) -> list[str]:
    """The names of the outputs to ask for; points where the card names some.

    Raises:
        WeightsError: the graph does not fit its card.
    """
    height, width = card.input_hw
    if len(inputs) != 1 or not fits(inputs[0], Port("images", "uint8", [None, height, width, 3])):
        expected = Port("images", "uint8", ["B", height, width, 3])
        raise WeightsError("the network's input", file=path, found=_listed(inputs), expected=expected)
    check_batch(inputs[0], path)
    by_name = {port.name: port for port in outputs}
    wanted = [Port(name, *face) for name, face in _faces(card).items()]
    if not all(port.name in by_name and fits(by_name[port.name], port) for port in wanted):
        raise WeightsError("the network's outputs", file=path, found=_listed(outputs), expected=_wanted(card))
    return [port.name for port in wanted]


def checked_arrays(arrays: Mapping[str, Any], card: ModelCard, path: Path) -> Outputs:
    """The arrays a graph gave, as `Outputs`.

    Raises:
        WeightsError: arrays of another shape than the card says.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    rows = (*next(iter(shapes.values())), None, None)[:2]
    if shapes != {
        name: tuple(rows[axis] if length is None else length for axis, length in enumerate(face[1]))
        for name, face in _faces(card).items()
    }:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise WeightsError("the network's outputs", file=path, found=found, expected=_wanted(card))
    if not card.max_det:
        return Outputs(arrays["boxes"], arrays["scores"], arrays.get("points"))
    table, meant = arrays["detections"], np.arange(card.max_det) < arrays["count"][:, None]  # [B, max_det]
    labels = np.arange(len(card.class_names), dtype=np.float32)
    scores = np.where(meant[..., None] & (table[..., 5:] == labels), table[..., 4:5], np.float32(0))
    return Outputs(np.ascontiguousarray(table[..., :4]), scores, arrays.get("points"))


def check_batch(input_port: Port, path: Path) -> None:
    """Refuse a graph made for so many canvases at a time that memory would be filled with black ones."""
    length = input_port.shape[0] if input_port.shape else None
    if isinstance(length, int) and not 1 <= length <= _MOST_CANVASES:
        expected = f"1 to {_MOST_CANVASES}, or any"
        raise WeightsError("the network's canvases at a time", file=path, found=length, expected=expected)


def in_batches(batch_rgb: NDArray[np.uint8], input_port: Port) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """A batch as the graph takes it, and how many of its canvases are meant.

    A graph made for so many canvases at a time gets them; the last batch is filled up with black.
    """
    length = input_port.shape[0] if input_port.shape else None
    step = length if isinstance(length, int) else max(1, len(batch_rgb))
    for start in range(0, max(1, len(batch_rgb)), step):
        part = np.ascontiguousarray(batch_rgb[start : start + step])
        count = len(part)
        if isinstance(length, int) and count < step:
            part = np.concatenate([part, np.zeros((step - count, *part.shape[1:]), np.uint8)])
        yield part, count


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of batches that follow each other, as one."""
    if len(parts) == 1:
        return parts[0]
    points = [part.points_xyv for part in parts if part.points_xyv is not None]
    boxes, scores = (np.concatenate([part[column] for part in parts]) for column in (0, 1))
    return Outputs(boxes, scores, np.concatenate(points) if points else None)


def fits(port: Port, wanted: Port) -> bool:
    """Equal names, dtypes and lengths, where both say one."""
    lengths = zip(port.shape, wanted.shape, strict=False)
    return port[:2] == wanted[:2] and (
        not port.shape
        or (
            len(port.shape) == len(wanted.shape)
            and all(want is None or not isinstance(have, int) or have == want for have, want in lengths)
        )
    )


def refuse(path: Path, what: str, reason: str, error: Exception) -> NoReturn:
    """Raise a runtime's complaint about a file as the one line of a WeightsError."""
    raise WeightsError(f"{what}: {reason[:200] or type(error).__name__}", file=path) from error


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(str(port) for port in ports)


def _faces(card: ModelCard) -> dict[str, tuple[str, list[int | None]]]:
    """Output name -> dtype and shape; None is B, and N after it."""
    rows = card.max_det or None
    faces: dict[str, tuple[str, list[int | None]]]
    if card.max_det:
        faces = {"detections": ("float32", [None, rows, 6]), "count": ("int64", [None])}
    else:
        faces = {"boxes": ("float32", [None, None, 4]), "scores": ("float32", [None, None, len(card.class_names)])}
    if card.point_names:
        faces["points"] = ("float32", [None, rows, len(card.point_names), 3])
    return faces


def _wanted(card: ModelCard) -> str:
    shapes = [f"{name} [{', '.join(_length(*at) for at in enumerate(face[1]))}]" for name, face in _faces(card).items()]
    return f"float {', '.join(shapes)}" + ("" if card.max_det else " (scores: one for each class name)")


def _length(axis: int, length: int | None) -> str:
    return "BN"[axis] if length is None else str(length)
