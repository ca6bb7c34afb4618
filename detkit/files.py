"""Files written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from detkit.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to: renamed to `path` when the block ends well, removed when it does not.

    Args:
        path: the file to write, in a folder that exists; a reader never sees it half-written.
    Raises:
        RunError: the file cannot be written (no such folder, no permission, full disk).
    """
    partial = path.with_name(f".{uuid4().hex}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise RunError("cannot be written", file=path, found=error.strerror or str(error)) from error
    finally:
        with suppress(OSError):  # the folder is gone or read-only: said above
            partial.unlink(missing_ok=True)
