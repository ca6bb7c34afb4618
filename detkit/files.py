"""Files written whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from detkit.errors import RunError


class Partial:
    """A hidden name beside `target` for whoever writes over a longer time than one block: `commit` or `discard` it.

    Args:
        target: the file to write, in a folder that exists; a reader never sees it half-written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{uuid4().hex}.part{target.suffix}")

    def commit(self) -> None:
        """Rename what was written to `target`.

        Raises:
            RunError: it cannot be renamed; then nothing of it is left.
        """
        try:
            self.path.replace(self.target)
        except OSError as error:
            self.discard()
            raise self.failed(error) from error

    def discard(self) -> None:
        """Remove what was written, if anything was."""
        with suppress(OSError):  # the folder is gone or read-only: whoever wrote has said so
            self.path.unlink(missing_ok=True)

    def failed(self, error: OSError) -> RunError:
        """What to raise when writing fails: no such folder, no permission, full disk."""
        return RunError("cannot be written", file=self.target, found=error.strerror or str(error))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to: renamed to `path` when the block ends well, removed when it does not.

    Args:
        path: the file to write, in a folder that exists; a reader never sees it half-written.
    Raises:
        RunError: the file cannot be written (no such folder, no permission, full disk).
    """
    partial = Partial(path)
    try:
        yield partial.path
        partial.commit()
    except OSError as error:
        raise partial.failed(error) from error
    finally:
        partial.discard()


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
