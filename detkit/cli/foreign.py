"""What `--adapter` and `--names` ask for: a detector of another project as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from detkit.cli import terminal
from detkit.engines import EngineName, runs_at_a_time
from detkit.engines.adapters import read_adapter
from detkit.engines.foreign import ForeignEngine, read_names
from detkit.errors import UsageError
from detkit.manifest import find_weights


def open_foreign(
    weights: str | None,
    adapter: Sequence[str],
    names: str | None,
    backend: EngineName,
    size_px: int | None = None,
    photos: int = 1,
) -> ForeignEngine:
    """Load the network, and say how it is read.

    Args:
        weights: its file.
        adapter: what `--adapter` was given, once or more.
        names: what `--names` was given.
        backend: "auto" or "onnxruntime".
        size_px: side of the canvas asked for.
        photos: how many are going to be run.
    Raises:
        UsageError: no file, another backend, or a setting that is wrong.
        WeightsError: the network cannot be used, or does not fit the adapter.
        DataError: the class names cannot be read.
    """
    if weights is None:
        raise UsageError("--adapter is for a network of another project; name its file with --weights")
    if backend not in ("auto", "onnxruntime"):
        raise UsageError("a network of another project runs in onnxruntime", found=f"--backend {backend}")
    settings = read_adapter(adapter)
    if size_px is not None:
        settings = replace(settings, size_px=size_px)
    class_names = None if names is None else read_names(names)
    engine = ForeignEngine(find_weights(weights), settings, class_names, parallel=runs_at_a_time(photos))
    height, width = engine.card.input_hw
    scaled = "" if settings.divide_by == 1 else f" / {settings.divide_by:g}"
    terminal.say(
        f"{engine.path.name}: {terminal.count(len(engine.card.class_names), 'class', 'classes')}, {width}x{height} px, "
        f"{settings.channels}{scaled}, {settings.fit}; boxes {settings.box_format} in {settings.box_unit}"
    )
    return engine
