"""What the engines that run an exported graph share: their threads, and whether graph and arrays fit the model card."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from detkit.engines import Outputs, usable_cores
from detkit.errors import WeightsError
from detkit.weights import ModelCard


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
    by_name = {port.name: port for port in outputs}
    wanted = [Port(name, "float32", [None, None, *last]) for name, last in _row_shapes(card).items()]
    if not all(port.name in by_name and fits(by_name[port.name], port) for port in wanted):
        raise WeightsError("the network's outputs", file=path, found=_listed(outputs), expected=_wanted(card))
    return [port.name for port in wanted]


def checked_arrays(arrays: Mapping[str, Any], card: ModelCard, path: Path) -> Outputs:
    """The arrays a graph gave, as `Outputs`.

    Raises:
        WeightsError: arrays of another shape than the card says.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    rows = arrays["scores"].shape[:2]
    if shapes != {name: (*rows, *last) for name, last in _row_shapes(card).items()}:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise WeightsError("the network's outputs", file=path, found=found, expected=_wanted(card))
    return Outputs(arrays["boxes"], arrays["scores"], arrays.get("points"))


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


def _row_shapes(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Output name -> its shape after [B, N]."""
    points = {"points": (len(card.point_names), 3)} if card.point_names else {}
    return {"boxes": (4,), "scores": (len(card.class_names),), **points}


def _wanted(card: ModelCard) -> str:
    shapes = [f"{name} [B, N, {', '.join(map(str, last))}]" for name, last in _row_shapes(card).items()]
    return f"float {', '.join(shapes)} (scores: one for each class name)"
