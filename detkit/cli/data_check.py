"""`detkit data check`: everything that is wrong with labelled photos, before anything is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detkit.cli import options, terminal
from detkit.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from detkit.data.check import CheckReport
    from detkit.data.findings import Finding

_EXAMPLES = 3  # of each kind, in the table
_SEVERITIES = ("error", "warning", "note")


def check(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Data set: a folder, a data.yaml, a COCO JSON or CSV file."),
    ],
    size: Annotated[int, typer.Option("--size", min=32, help="Side of the canvas to be trained on, in pixels.")] = 320,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read the photos' headers only: damaged and alike ones go unnoticed.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="CODE", help="Only this kind of finding; may be repeated.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="CODE", help="All but this kind of finding; may be repeated.")
    ] = None,
    split: options.OnlySplit = None,
    format_: options.SourceFormat = None,
    as_json: options.Json = False,
) -> None:
    """Find everything that is wrong with a data set.

    An error loses an image or a box or makes one wrong; `detkit train` refuses it, and this command ends with exit
    code 3. Warnings and notes are worth a look. docs/data-check.md says what each code means and how to mend it;
    `detkit data fix` mends much of it in a copy.

    Example:  detkit data check street --size 416
    """
    from detkit.data.check import check as check_data
    from detkit.data.findings import CODES, unknown_codes

    if wrong := unknown_codes([*(only or []), *(skip or [])]):
        raise UsageError(f"no finding has the code {wrong[0]!r}", expected=", ".join(CODES))
    report = check_data(
        data,
        split,
        format_,
        size_px=size,
        fast=fast,
        watch=lambda facts, total: terminal.progress(facts, total=total, title="looking at the photos"),
    )
    shown = [f for f in report.findings if (not only or f.code in only) and f.code not in (skip or [])]
    if as_json:
        terminal.print_json(_document(report, shown))
    else:
        terminal.say(f"{data}: {report.reason}")
        _print_findings(shown, data)
    _say_used(report, shown)
    failing = ("error", "warning") if strict else ("error",)
    if any(finding.severity in failing for finding in shown):
        raise typer.Exit(ExitCode.DATA)


def _document(report: CheckReport, shown: Sequence[Finding]) -> dict[str, Any]:
    counts = Counter(str(finding.severity) for finding in shown)
    splits = {d.split: {"images": len(d), "boxes": d.box_count} for d in report.datasets}
    used = {name: getattr(report, name) for name in ("images_used", "boxes_used", "images_left_out", "boxes_left_out")}
    top: dict[str, Any] = {"data": str(report.path)}
    top["format"] = report.datasets[0].format if report.datasets else None
    top |= {f"{name}s": counts[name] for name in _SEVERITIES}
    return top | used | {"read": splits, "findings": [finding.to_dict() for finding in shown]}


def _print_findings(shown: Sequence[Finding], data: Path) -> None:
    """A table by kind: how many, the first few, and how to mend them."""
    rows = []
    home = data.absolute() if data.is_dir() else data.absolute().parent
    for code, count in Counter(finding.code for finding in shown).items():
        examples = [finding for finding in shown if finding.code == code][:_EXAMPLES]
        for at, finding in enumerate(examples):
            head = (finding.severity, code, f"{count:,}") if at == 0 else ("", "", "")
            rows.append((*head, str(finding).replace(f"{home}/", "")))
        if count > len(examples):
            rows.append(("", "", "", f"... and {count - len(examples):,} more"))
        rows.append(("", "", "", f"to mend: {examples[0].advice}"))
    if rows:
        terminal.print_table(("severity", "code", "count", "where and what"), rows, right=("count",))


def _say_used(report: CheckReport, shown: Sequence[Finding]) -> None:
    counts = Counter(str(finding.severity) for finding in shown)
    found = ", ".join(terminal.count(counts[name], name) for name in _SEVERITIES)
    used = f"{report.images_used:,} images with {report.boxes_used:,} boxes"
    left = f"{report.images_left_out:,} images and {report.boxes_left_out:,} boxes"
    terminal.say(f"{found}; would be used: {used}; left out: {left}")
