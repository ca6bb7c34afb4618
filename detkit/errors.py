"""The errors detkit raises on purpose, and the exit code each one means."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit status of the `detkit` command."""

    OK = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    WEIGHTS = 4
    MISSING_EXTRA = 5
    RUN = 6
    GATE = 7
    INCONCLUSIVE = 8
    INTERRUPTED = 130


class DetkitError(Exception):
    """Something the user can mend; the command line prints it as one line on stderr."""

    exit_code = ExitCode.BUG

    def __init__(
        self,
        message: str,
        *,
        file: Path | str | None = None,
        line: int | None = None,
        found: object = None,
        expected: object = None,
    ) -> None:
        self.message, self.file, self.line = message, file, line
        self.found, self.expected = found, expected
        super().__init__(str(self))

    def __str__(self) -> str:
        where = "" if self.file is None else str(self.file)
        if where and self.line is not None:
            where += f":{self.line}"
        parts = [f"{where}: {self.message}" if where else self.message]
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return "; ".join(parts)


class UsageError(DetkitError):
    """The command line or a setting is wrong."""

    exit_code = ExitCode.USAGE


class DataError(DetkitError):
    """An image, a label or a data set cannot be used."""

    exit_code = ExitCode.DATA


class WeightsError(DetkitError):
    """A model file cannot be used, or not with this data."""

    exit_code = ExitCode.WEIGHTS


class MissingExtraError(DetkitError):
    """An optional part of detkit, or a system library, is not installed."""

    exit_code = ExitCode.MISSING_EXTRA


class RunError(DetkitError):
    """A run started well and cannot go on (non-finite loss, full disk)."""

    exit_code = ExitCode.RUN


class GateError(DetkitError):
    """A quality gate was not passed."""

    exit_code = ExitCode.GATE
