"""What each worker of a Ray cluster does: load the model once, then work through block after block."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit import errors
from detkit.engines import Engine, open_engine, weights_suffix
from detkit.errors import DetkitError, RunError
from detkit.infer.job import Job, header_of
from detkit.infer.parts import Block, Parts, Tally
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import Record
from detkit.infer.sinks import Sinks
from detkit.opencv import load_cv2
from detkit.weights import find_weights


@dataclass(frozen=True, slots=True)
class RayJob:
    """What every worker is to do.

    Args:
        weights: a model file, or the name of a shipped model, as `Predictor` takes it.
        settings: the other arguments of `Predictor`, but for `photos`.
        header: the "run" record of a predictor made with these; workers that would find other boxes refuse to work.
        extra: the settings in it that are not the predictor's; see `header_of`.
        reading: how items are read.
        strict: an item that cannot be read ends the run.
    """

    weights: str | None
    settings: Mapping[str, Any]
    header: Record
    extra: Mapping[str, Any]
    reading: Reading
    strict: bool = False


class Worker:
    """One process of the pool; Ray calls it with a block at a time."""

    def __init__(self, job: RayJob, parts: Parts, cwd: str, cpus: int) -> None:
        """Remember what is to be done: in the folder `cwd`, where relative paths start, with so many threads."""
        self._job, self._parts, self._cwd, self._cpus = job, parts, cwd, cpus
        self._predictor: Predictor | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Do a block; gives the report that `tally_of` reads."""
        block: Block = row["block"]
        try:
            tally = self._done(block)
        except DetkitError as error:  # as it is: Ray would wrap it into an exception of its own
            return {"report": json.dumps({"failed": type(error).__name__, "said": str(error)})}
        report = {"number": block.number, "pictures": tally.pictures, "objects": tally.objects}
        return {"report": json.dumps(report | {"errors": tally.errors, "warnings": tally.warnings})}

    def _done(self, block: Block) -> Tally:
        os.chdir(_seen(self._cwd))
        if self._parts.file(block.number).exists():  # Ray repeats what it did not hear the end of
            return self._parts.tally(block.number)
        return self._parts.write(block, self._job.header, self._records(block))

    def _records(self, block: Block) -> Iterator[Record]:
        """The records of a block; the model is loaded when the first one is asked for."""
        if self._predictor is None:
            load_cv2().setNumThreads(self._cpus)
            self._predictor = open_predictor(self._job, self._cpus)
        yield from Job(self._predictor, strict=self._job.strict).run(block.items, self._job.reading, Sinks())


def tally_of(report: str) -> tuple[int, Tally]:
    """The number of a block and what is in it.

    Raises:
        DetkitError: what kept the worker from doing it.
    """
    values = json.loads(report)
    if "failed" in values:
        raise getattr(errors, values["failed"], RunError)(values["said"])
    found = Tally(values["pictures"], Counter(values["objects"]), values["errors"], values["warnings"])
    return values["number"], found


def open_predictor(job: RayJob, threads: int) -> Predictor:
    """The model on so many threads.

    Raises:
        RunError: it would find other boxes than the run's.
        DetkitError: as `Predictor` says.
    """
    asked = job.settings.get("engine", "auto")
    path = find_weights(job.weights, weights_suffix(asked))
    engine = _engine(path, job.header["model"]["engine"], threads)
    landmarks, landmarks_path = job.settings.get("landmarks"), None
    if isinstance(landmarks, str | Path):
        landmarks_path = find_weights(landmarks, weights_suffix(asked))
        landmarks = _engine(landmarks_path, asked, threads)
    predictor = Predictor(engine, **{**job.settings, "landmarks": landmarks})
    predictor.path = path
    if predictor.landmarks is not None:
        predictor.landmarks.path = landmarks_path
    own = header_of(predictor, job.reading, dict(job.extra))
    differing = [key for key in job.header if own.get(key) != job.header[key]]
    if differing:
        what = f"{platform.node()} has another model or another detkit than the machine the run was started on"
        raise RunError(what, file=path, found=f"other {', '.join(differing)}")
    return predictor


def _engine(path: Path, name: str, threads: int) -> Engine:
    """A network in the engine of this name, on so many threads."""
    if name.startswith("openvino"):
        from detkit.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, precision="bf16" if name == "openvino-bf16" else "fp32", threads=threads)
    if path.suffix == ".safetensors":
        return open_engine(path, "torch")
    from detkit.engines.onnx import OnnxEngine

    return OnnxEngine(path, threads)


def _seen(folder: str) -> str:
    if not Path(folder).is_dir():
        raise RunError(f"{platform.node()} does not see this folder; all machines must share it", file=folder)
    return folder
