"""`detkit gate`: may a new model take the place of the old one? For CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detkit.cli import contenders, options, terminal
from detkit.cli.compare import print_flips
from detkit.errors import ExitCode, UsageError
from detkit.evaluate.compare import points
from detkit.evaluate.flips import find_flips
from detkit.evaluate.gate import Demand, GateResult, Verdict, expand, gate
from detkit.evaluate.gate_report import junit, markdown, power
from detkit.files import replacing

MinDelta = Annotated[
    float,
    typer.Option(
        "--min-delta", metavar="POINTS", help="How far B may fall behind A, in AP points (hundredths), below 0."
    ),
]
FigureNames = Annotated[
    list[str] | None,
    typer.Option(
        "--figure",
        metavar="NAME[=POINTS]",
        help="What to judge, again for more: AP, AP50, AP75, class:NAME, class50:NAME, or class:* for each class; "
        "=POINTS is a limit of its own.  [default: AP]",
    ),
]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, for CI systems.")]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write a summary in Markdown, for a job's page.")
]
OnInconclusive = Annotated[
    Literal["pass", "fail"] | None,
    typer.Option("--on-inconclusive", help="Leave with 0 or with 7 where nobody can tell, instead of with 8."),
]

_CODES: dict[Verdict, ExitCode] = {
    "pass": ExitCode.OK,
    "regressed": ExitCode.GATE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


def gate_(
    a: contenders.ModelA,
    b: contenders.ModelB,
    data: contenders.Data = None,
    split: contenders.Split = None,
    format_: options.SourceFormat = None,
    min_delta: MinDelta = Demand.min_delta_points,
    figures: FigureNames = None,
    on_inconclusive: OnInconclusive = None,
    junit_to: Junit = None,
    markdown_to: Markdown = None,
    draws: contenders.Draws = contenders.DEFAULT_DRAWS,
    seed: contenders.Seed = 0,
    level: contenders.Level = contenders.DEFAULT_LEVEL,
    backend: options.Backend = "auto",
    batch: contenders.Batch = 1,
    as_json: options.Json = False,
) -> None:
    """Say whether candidate B may take the place of baseline A, and leave with the answer as exit code.

    0, pass: the 95 % interval of B less A lies above --min-delta. 7, regressed: it lies below. 8, inconclusive: it
    holds --min-delta, so these photos are too few to say. Either verdict is wrong in at most one case of 40. Of several
    figures all must pass, and one regressed is enough; their upper ends are moved up so that they raise no more false
    alarms together than one would.

    What the photos can show is printed with it: the loss that would be found, and how often an equal model would pass.

    Example:  detkit gate runs/street runs/street-2 --data street --min-delta -1
    """
    demands = _demands(figures, min_delta)
    for option, target in (("--junit", junit_to), ("--markdown", markdown_to)):
        contenders.check_target(option, target, (a, b, data))
    pair = contenders.meet((a, b), data, split, format_, backend)
    expand(demands, pair.dataset.class_names)  # a figure there is not is said before the long work
    predictions = pair.detect(backend, batch)
    result = gate(pair.dataset, *predictions, demands, draws=draws, seed=seed, level=level)
    flips = find_flips(pair.dataset, *predictions)
    name_a, name_b = pair.names
    if junit_to is not None:
        fail = on_inconclusive == "fail"
        _write(junit_to, junit(result, a=name_a, b=name_b, fail_inconclusive=fail))
    if markdown_to is not None:
        _write(markdown_to, markdown(result, a=name_a, b=name_b, flips=flips))
    code = _exit_code(result.verdict, on_inconclusive)
    if as_json:
        terminal.print_json(pair.to_dict() | result.to_dict() | {"exit_code": int(code)})
    else:
        _print(result, name_a, name_b)
        if result.verdict != "pass":
            print_flips(flips, 5)
    raise typer.Exit(code)


def _demands(figures: list[str] | None, min_delta: float) -> list[Demand]:
    try:
        return [Demand.parse(text, min_delta) for text in figures or [Demand.figure]]
    except ValueError as error:
        raise UsageError(f"--min-delta, --figure: {error}") from error


def _exit_code(verdict: Verdict, on_inconclusive: Literal["pass", "fail"] | None) -> ExitCode:
    if verdict == "inconclusive" and on_inconclusive is not None:
        return ExitCode.OK if on_inconclusive == "pass" else ExitCode.GATE
    return _CODES[verdict]


def _print(result: GateResult, a: str, b: str) -> None:
    heads = ("A", "B", "B - A, points", f"{100 * result.level:g} % interval", "allowed", "verdict")
    rows = []
    for judged in result.judged:
        change = judged.change
        low, high = change.interval
        interval = f"{points(low)} to {points(high)}"
        allowed = f"{judged.min_delta_points:+.2f}"
        values = (f"{change.a:.4f}", f"{change.b:.4f}", points(change.delta), interval, allowed)
        rows.append((change.figure, *values, judged.verdict))
    terminal.print_table(("figure", *heads), rows, right=(*heads[:3], "allowed"))
    print()
    shown = [j for j in result.judged if j.verdict == result.verdict]
    print(f"{result.verdict}: {terminal.one_line(' '.join(j.sentence(result.level, a=a, b=b) for j in shown[:3]))}")
    for judged in result.judged[:3]:
        terminal.say(terminal.one_line(f"{judged.change.figure}: {power(judged, result.images)}"))


def _write(target: Path, text: str) -> None:
    with replacing(target) as partial:
        partial.write_text(text, encoding="utf-8")
