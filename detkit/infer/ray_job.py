"""A corpus on a Ray cluster: blocks of items through a pool of workers, each with a predictor, into `Parts`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from detkit.engines import usable_cores
from detkit.errors import MissingExtraError, RunError, UsageError
from detkit.infer.journal import remove_partial_files
from detkit.infer.parts import Block, Parts, Tally
from detkit.infer.ray_worker import RayJob, Worker, tally_of

LOCAL, AUTO = "local", "auto"
_PATIENCE_S = 10.0
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # gRPC's first words, RFC 9113
_SETTINGS_FRAME = b"\x04"  # the type of the frame that answers it
_QUIET = {  # what Ray reads when it is imported or started; stdout and stderr are the caller's
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


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
        address: "local" starts a Ray on this machine; "auto" or HOST:PORT is a cluster that this one is of.
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
    sizes = {block.number: len(block.items) for block in todo}
    try:
        with _connected(ray, address):
            for row in _rows(ray, job, parts, todo, cpus).iter_rows():
                number, tally = tally_of(row["report"])
                yield PartReport(number, sizes[number], tally)
    except (ray.exceptions.RaySystemError, ray.exceptions.RayActorError, ConnectionError) as error:
        raise RunError("Ray cannot go on", file=address, found=_first_line(error)) from error
    finally:
        remove_partial_files(parts.folder)  # of workers that were stopped


def _rows(ray: Any, job: RayJob, parts: Parts, blocks: Sequence[Block], cpus: int) -> Any:
    """The data set of the reports, which is worked out while it is read."""
    room = ray.cluster_resources()
    gpus = int(room.get("GPU", 0)) if job.header["model"]["engine"] == "torch" else 0
    workers = gpus or int(room.get("CPU", 0) // cpus)
    if workers < 1:
        raise RunError("this Ray cluster has no room for a worker", expected=f"{cpus} CPU or more")
    return ray.data.from_items([{"block": block} for block in blocks], override_num_blocks=len(blocks)).map(
        Worker,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
        fn_constructor_args=(job, parts, str(Path.cwd()), cpus),
        **({"num_gpus": 1} if gpus else {"num_cpus": cpus}),
    )


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
        _start(ray, address, settings)
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, address: str, settings: dict[str, Any]) -> None:
    try:
        with _muted_stderr():  # one line there says that what was asked to be quiet is
            ray.init(address, **settings)
    except Exception as error:  # Ray raises many kinds, bare ones too
        what = "no Ray could be started" if address == LOCAL else "no Ray cluster could be reached"
        advice = None if address in (LOCAL, AUTO) else "the same Ray, and RAY_AUTH_MODE=token where it asks for a token"
        raise RunError(what, file=address, found=_first_line(error), expected=advice) from error


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Nothing on the process's stderr, not even from C++."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_answers(address: str) -> None:
    """Make sure that someone listens there who speaks as Ray does: Ray itself would try for minutes."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None or f"{host}:{port}" != address.lower().strip("/"):
        expected = f"{LOCAL}, {AUTO} or HOST:PORT, on a machine of the cluster"  # Ray Data does not run over ray://
        raise UsageError("is no address that a Ray run can be started at", file=address, expected=expected)
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(_HELLO)
                if connection.recv(9, socket.MSG_WAITALL)[3:4] != _SETTINGS_FRAME:
                    raise RunError("is no Ray cluster", file=address)
    except OSError as error:
        raise RunError("no Ray cluster answers", file=address, found=error.strerror or error) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
