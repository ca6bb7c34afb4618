"""Everything the command line prints: data on stdout (JSON, tables), talk on stderr (messages, progress)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from detkit.data.dataset import Dataset
    from detkit.download import DownloadReport
    from detkit.train.reports import EpochReport, FinishReport, Report, TrialReport

Item = TypeVar("Item")
_MAIN_FIGURES = ("AP", "AP50", "NME", "quality", "LOC", "mean_IoU")  # those an epoch's line shows


def say(message: str) -> None:
    """Talk to the user: one line on stderr."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Say something the user should know, though the work goes on."""
    say(f"detkit: warning: {one_line(message)}")


def one_line(text: str) -> str:
    """A text as one printable line: line breaks become spaces, other control characters are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """1 photo, 2 photos."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"


def print_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, allow_nan=False, indent=2 if sys.stdout.isatty() else None))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table on stdout: drawn by rich on a terminal, plain aligned columns in a pipe or a file.

    Args:
        headers: the columns' names.
        rows: the cells, as text; formatting numbers is the caller's business.
        right: the names of the columns to align right (numbers).
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich_table(headers, cells, right)
        return
    widths = [max(len(row[i]) for row in [headers, *cells]) for i in range(len(headers))]
    for row in [headers, *cells]:
        columns = zip(headers, row, widths, strict=True)
        line = "  ".join(c.rjust(width) if name in right else c.ljust(width) for name, c, width in columns)
        print(line.rstrip())


def _print_rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in headers:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])  # Text: a name like [red] is no markup
    Console().print(table)


def progress(items: Iterable[Item], *, total: int | None, title: str) -> Iterator[Item]:
    """Pass items on, drawing a progress bar on stderr where that is a terminal."""
    if not sys.stderr.isatty() or total is None or total < 2:
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(items, total=total, description=title)


def show_download(reports: Iterable[DownloadReport]) -> int:
    """Draw a download as it goes, where stderr is a terminal; gives the bytes that were there before it began."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    kept = 0
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=None)
        for report in reports:
            kept = report.kept_bytes
            bar.update(task, completed=report.done_bytes, total=report.total_bytes)
    return kept


def describe_dataset(dataset: Dataset) -> str:
    """One line on a data set that was read: where, format, split, how much."""
    crowds = sum(int(sample.truth.crowd.sum()) for sample in dataset if sample.truth.crowd is not None)
    crowd_note = f" ({crowds} crowds)" if crowds else ""
    return (
        f"{dataset.source}: {dataset.format.upper()} labels{f', split {dataset.split}' if dataset.split else ''}: "
        f"{len(dataset)} photos, {dataset.box_count} boxes{crowd_note}, {len(dataset.class_names)} classes"
    )


def show_training(reports: Iterator[Report], *, talk: bool = True) -> FinishReport:
    """Draw a training run as it goes, with a bar on a terminal and a line per epoch; gives its last report.

    Args:
        talk: False follows the run without a word (all processes of a team but one).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from detkit.train.reports import FinishReport, StepReport

    columns = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    finish: FinishReport | None = None
    quiet = not (talk and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None, now="")
        for report in reports:
            if isinstance(report, StepReport):
                losses = "  ".join(f"{name} {value:.2f}" for name, value in report.losses.items())
                now = f"{report.images_per_s:.1f} images/s  {losses}"
                title, total = f"epoch {report.epoch + 1}", report.total_steps
                bar.update(task, description=title, completed=report.step, total=total, now=now)
            elif isinstance(report, FinishReport):
                finish = report
            elif talk:
                bar.console.print(_report_line(report), markup=False, highlight=False, soft_wrap=True)
                bar.console.file.flush()
    assert finish is not None
    return finish


def _report_line(report: TrialReport | EpochReport) -> str:
    from detkit.train.reports import TrialReport

    if isinstance(report, TrialReport):
        return f"{report.name}: {report.found}"
    losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    line = f"epoch {report.epoch:>3}/{report.epochs}  {losses}  {report.seconds / 60:.1f} min"
    if report.figures is not None:
        main = " ".join(f"{name} {report.figures[name]:.3f}" for name in _MAIN_FIGURES if name in report.figures)
        line += f"  val {main}" + ("  best" if report.is_best else "")
    return line if report.diagnosis is None else f"{line}\n{report.diagnosis}"
