"""`detkit compare`: which of two models is better on the same photos, and by how much for sure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from detkit.cli import contenders, options, terminal
from detkit.evaluate.compare import Change, ModelComparison, compare, points, verdict
from detkit.evaluate.flips import Flips

Conf = Annotated[
    float | None,
    typer.Option(
        "--conf",
        metavar="SCORE",
        min=0,
        max=1,
        help="Look for flipped photos at this threshold (default: each model's and class's best by F1).",
    ),
]
Photos = Annotated[int, typer.Option("--photos", min=0, help="List so many photos that B does worse on, and better.")]
Report = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write an HTML report with both models side by side: one file with its pictures, to read or to send on.",
    ),
]


def compare_(
    a: contenders.ModelA,
    b: contenders.ModelB,
    data: contenders.Data = None,
    split: contenders.Split = None,
    format_: options.SourceFormat = None,
    conf: Conf = None,
    photos: Photos = 5,
    report: Report = None,
    draws: contenders.Draws = contenders.DEFAULT_DRAWS,
    seed: contenders.Seed = 0,
    level: contenders.Level = contenders.DEFAULT_LEVEL,
    backend: options.Backend = "auto",
    batch: contenders.Batch = 1,
    as_json: options.Json = False,
) -> None:
    """Say which of two models is better on the same photos, and by how much for sure.

    Both are measured on the same photos, and the interval of the difference comes from a paired bootstrap: what is hard
    for both drops out, so far smaller gaps show than between two intervals of `detkit eval`. Differences are in AP
    points (hundredths). The intervals of classes are not widened for being many: of 20 equal classes about one will
    leave 0 out.

    Then come the photos that flipped: a truth that A finds and B misses is lost, the reverse found; a false alarm of B
    that A does not raise is new, the reverse gone. --json lists all of them with their boxes.

    Example:  detkit compare runs/street runs/street-2 --data street
    """
    if report is not None:
        from detkit.evaluate.report import check_jinja2, write_comparison

        check_jinja2()
        contenders.check_target("--report", report, (a, b, data))
    pair = contenders.meet((a, b), data, split, format_, backend)
    predictions = pair.detect(backend, batch)
    result = compare(pair.dataset, *predictions, conf=conf, draws=draws, seed=seed, level=level)
    sentence = verdict(result.AP, result.images, level, a=pair.names[0], b=pair.names[1])
    if report is not None:
        write_comparison(report, pair.dataset, *predictions, comparison=result, names=pair.names)
        terminal.say(f"wrote {report}")
    if as_json:
        terminal.print_json(pair.to_dict() | result.to_dict() | {"verdict": sentence})
        return
    _print_figures(result)
    if photos:
        print_flips(result.flips, photos)
    print()
    print(terminal.one_line(sentence))


def _print_figures(result: ModelComparison) -> None:
    heads = ("A", "B", "B - A, points", f"{100 * result.level:g} % interval", "B better")
    right = (*heads[:3], "B better", "truths")
    terminal.print_table(
        ("figure", *heads), [(c.figure, *_cells(c)) for c in (result.AP, result.AP50, result.AP75)], right=right
    )
    print()
    rows = [(c.name, *_cells(c.AP), str(c.truths)) for c in result.per_class]
    terminal.print_table(("class, AP", *heads, "truths"), rows, right=right)


def print_flips(flips: Flips, count: int) -> None:
    """Tables of the photos that B does worse and better on, and how many truths and false alarms flipped in all."""
    heads = ("lost", "new false", "found", "gone false")
    for title, found in (("B does worse on", flips.worse()), ("B does better on", flips.better())):
        if found and count:
            print()
            rows = [
                (photo.name, *(str(photo.count(kind)) for kind in ("lost", "new_false", "found", "gone_false")))
                for photo in found[:count]
            ]
            terminal.print_table((f"{title} ({len(found)})", *heads), rows, right=heads)
    counted = terminal.count
    terminal.say(
        f"on {counted(len(flips.photos), 'photo')} something flipped: {counted(flips.count('found'), 'truth')} found, "
        f"{flips.count('lost')} lost; {counted(flips.count('new_false'), 'false alarm')} new, "
        f"{flips.count('gone_false')} gone"
    )


def _cells(change: Change) -> Sequence[str]:
    a, b = ("-" if value < 0 else f"{value:.4f}" for value in (change.a, change.b))
    if not change.defined:
        return (a, b, "-", "", "-")
    low, high = change.interval
    return (a, b, points(change.delta), f"{points(low)} to {points(high)}", f"{100 * change.b_better:.0f} %")
