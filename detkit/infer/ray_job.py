"""A corpus on a Ray cluster: blocks of items through a pool of workers, each with a predictor, into `Parts`."""

from __future__ import annotations

import json
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detkit import errors
from detkit.engines import Engine, open_engine, usable_cores, weights_suffix
from detkit.errors import DetkitError, MissingExtraError, RunError, UsageError
from detkit.infer.job import Job, header_of
from detkit.infer.parts import Block, Parts, Tally
from detkit.infer.predictor import Predictor
from detkit.infer.reading import Reading
from detkit.infer.records import Record
from detkit.infer.sinks import Sinks
from detkit.opencv import load_cv2
from detkit.weights import find_weights

LOCAL, AUTO = "local", "auto"
_CLIENT_PORT = 10001  # of ray://
_PATIENCE_S = 10.0
_QUIET = {  # what Ray reads when it is imported or started; stdout and stderr are the caller's
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True)
class RayJob:
    """What every worker is to do.

    Args:
        weights: a model file, or the name of a shipped model, as `Predictor` takes it.
        settings: the other arguments of `Predictor`, but for `photos`.
        header: the "run" record of a predictor made with these; workers that would find other boxes are refused.
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


@dataclass(frozen=True, slots=True)
class PartReport:
    """A block is done: how many items it had, and what is in them."""

    number: int
    items: int
    tally: Tally


def run_on_ray(
    job: RayJob, parts: Parts, blocks: Sequence[Block], address: str = LOCAL, *, cpus: int = 1
) -> Iterator[PartReport]:
    """Work through the blocks that are not done yet, as many at a time as the cluster has room for.

    A worker that dies is replaced, and its block is done again. Where Ray runs in this process already, it is used.

    Args:
        job: what to do with them.
        parts: begun, see `Parts.begin`; on a disk that all machines share, as the sources must be.
        address: "local" starts a Ray on this machine; "auto", HOST:PORT or ray://HOST:PORT is a cluster that runs.
        cpus: of a worker. For a PyTorch model on a cluster with GPUs, each worker has one of those instead.
    Raises:
        MissingExtraError: Ray is not installed.
        RunError: no cluster answers, or it has no room, or results cannot be written.
        DetkitError: a worker cannot use the model, as `Predictor` says.
    """
    ray = load_ray()
    done = parts.done(blocks)
    todo = [block for block in blocks if block.number not in done]
    if not todo:
        return
    with _connected(ray, address):
        gpus = int(ray.cluster_resources().get("GPU", 0)) if job.header["model"]["engine"] == "torch" else 0
        room = gpus or int(ray.cluster_resources().get("CPU", 0) // cpus)
        if room < 1:
            raise RunError("this Ray cluster has no room for a worker", file=address, expected=f"{cpus} CPU or more")
        rows = ray.data.from_items([{"block": block} for block in todo], override_num_blocks=len(todo))
        rows = rows.map(
            _Worker,
            compute=ray.data.ActorPoolStrategy(size=min(room, len(todo))),
            fn_constructor_args=(job, parts, str(Path.cwd()), cpus),
            **({"num_gpus": 1} if gpus else {"num_cpus": cpus}),
        )
        try:
            for row in rows.iter_rows():
                yield _report(json.loads(row["report"]))
        except (ray.exceptions.RaySystemError, ray.exceptions.RayActorError, ConnectionError) as error:
            raise RunError("Ray cannot go on", file=address, found=_first_line(error)) from error


def load_ray() -> Any:
    """The ray module with ray.data, silent, and without its usage reports to its makers.

    Raises:
        MissingExtraError: Ray is not installed, or cannot be imported.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        what = f'Ray cannot be imported ({_first_line(error)}): pip install "detkit-cv[ray]"'
        raise MissingExtraError(what) from error
    for logger in ("ray", "ray.data"):
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Ray, for the time of the block; one that runs in this process already stays."""
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == LOCAL:
        settings |= {"num_cpus": usable_cores(), "include_dashboard": False}
    elif address != AUTO:
        _check_answers(address)
    try:
        ray.init(address, **settings)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        what = "no Ray could be started" if address == LOCAL else "no Ray cluster could be reached"
        raise RunError(what, file=address, found=_first_line(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Make sure that someone listens there: Ray itself would try for minutes."""
    expected = f"{LOCAL}, {AUTO}, HOST:PORT or ray://HOST:PORT"
    is_client = address.startswith("ray://")
    try:
        parts = urlsplit(address if is_client else f"//{address}")
        host, port = parts.hostname, parts.port or (_CLIENT_PORT if is_client else None)
    except ValueError:
        host = port = None
    if not host or port is None:
        raise UsageError("is no address of a Ray cluster", file=address, expected=expected)
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise RunError("no Ray cluster answers", file=address, found=error.strerror or error) from error


class _Worker:
    """One process of the pool: loads the model once, then does block after block."""

    def __init__(self, job: RayJob, parts: Parts, cwd: str, cpus: int) -> None:
        self._job, self._parts, self._cwd, self._cpus = job, parts, cwd, cpus
        self._predictor: Predictor | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """The report on a block, as JSON; what the user can mend is reported too."""
        block: Block = row["block"]
        report: dict[str, Any] = {"number": block.number, "items": len(block.items)}
        try:
            tally = self._work(block)
        except DetkitError as error:
            return {"report": json.dumps({"error": type(error).__name__, "said": str(error)})}
        report |= {"pictures": tally.pictures, "objects": tally.objects}
        return {"report": json.dumps(report | {"errors": tally.errors, "warnings": tally.warnings})}

    def _work(self, block: Block) -> Tally:
        if self._parts.file(block.number).exists():  # Ray repeats what it did not hear of
            return self._parts.tally(block.number)
        job = self._job
        return self._parts.write(block, job.header, self._records(block))

    def _records(self, block: Block) -> Iterator[Record]:
        """The records of a block; the model is loaded when the first are asked for."""
        if self._predictor is None:
            self._predictor = self._opened()
        return Job(self._predictor, strict=self._job.strict).run(block.items, self._job.reading, Sinks())

    def _opened(self) -> Predictor:
        """The model on this worker's share of the machine; paths mean what they mean where the run was started."""
        try:
            os.chdir(self._cwd)
        except OSError as error:
            what = f"{platform.node()} does not see this folder; all machines must share it"
            raise RunError(what, file=self._cwd) from error
        load_cv2().setNumThreads(self._cpus)
        job, model = self._job, self._job.header["model"]
        path = find_weights(job.weights, weights_suffix(job.settings["engine"]))
        landmarks = job.settings["landmarks"]
        engine = _engine(path, model["engine"], self._cpus)
        predictor = Predictor(engine, **{**job.settings, "landmarks": None})
        predictor.path = path
        own = header_of(predictor, job.reading, dict(job.extra))
        differing = [key for key, value in job.header.items() if own.get(key) != value]
        return predictor


def _engine(path: Path, name: str, threads: int) -> Engine:
    """A network on so many threads."""
    if name == "onnxruntime":
        from detkit.engines.onnx import OnnxEngine

        return OnnxEngine(path, threads)
    if name.startswith("openvino"):
        from detkit.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(path, precision="bf16" if name == "openvino-bf16" else "fp32", threads=threads)
    return open_engine(path, "torch")
