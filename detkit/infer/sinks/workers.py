"""Threads that draw, encode and write while the network goes on; bounded, and the first failure is not lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore

IN_FLIGHT = 2  # jobs per thread that are under way or waiting


class Workers:
    """A few threads for jobs like writing a picture; `submit` waits while too many are under way."""

    def __init__(self, count: int = 1) -> None:
        """`count` threads, started when they are needed.

        Raises:
            ValueError: fewer than one.
        """
        if count < 1:
            raise ValueError(f"{count} workers, expected at least 1")
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="detkit-sink")
        self._room = Semaphore(IN_FLIGHT * count)
        self._failure: BaseException | None = None

    def submit(self, job: Callable[[], object]) -> Future[None]:
        """Hand over a job; raises what the first job that failed has raised."""
        self._room.acquire()
        try:
            self._raise_failure()
            future = self._pool.submit(_without_result, job)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Wait until all is done and end the threads; raises what the first job that failed has raised."""
        self._pool.shutdown()
        self._raise_failure()

    def abort(self) -> None:
        """Drop what waits, let what is under way come to its end, and end the threads; raises nothing."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self, future: Future[None]) -> None:
        if not future.cancelled() and self._failure is None:
            self._failure = future.exception()
        self._room.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _without_result(job: Callable[[], object]) -> None:
    job()
