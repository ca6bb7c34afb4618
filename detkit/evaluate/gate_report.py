"""A gate's result as CI systems show it: JUnit XML, and Markdown for the summary of a job."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from detkit.evaluate.compare import points
from detkit.evaluate.flips import Flips, PhotoFlips
from detkit.evaluate.gate import GateResult, Judged

_SIGNS = {"pass": "✅ pass", "regressed": "❌ regressed", "inconclusive": "⚠️ inconclusive"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 cannot hold
_PHOTOS = 10  # listed in the summary


def junit(result: GateResult, *, a: str, b: str, fail_inconclusive: bool = False) -> str:
    """JUnit XML, one test case per figure, as GitHub's reporters, GitLab and Jenkins read it.

    Args:
        a, b: the models' names.
        fail_inconclusive: an inconclusive figure is a failure; else it is skipped, for nothing was shown either way.
    """
    outcomes = [_junit_outcome(judged, fail_inconclusive) for judged in result.judged]
    counts = {
        "tests": str(len(outcomes)),
        "failures": str(outcomes.count("failure")),
        "errors": "0",
        "skipped": str(outcomes.count("skipped")),
        "time": "0",
    }
    suites = Xml.Element("testsuites", {"name": "detkit gate", **counts})
    suite = Xml.SubElement(suites, "testsuite", {"name": _xml(f"detkit gate: {b} against {a}"), **counts})
    for judged, outcome in zip(result.judged, outcomes, strict=True):
        name = _xml(f"{judged.change.figure} at least {judged.min_delta_points:+g} points")
        case = Xml.SubElement(suite, "testcase", {"classname": "detkit.gate", "name": name, "time": "0"})
        sentence = _xml(judged.sentence(result.level, a=a, b=b))
        if outcome == "failure":
            Xml.SubElement(case, outcome, {"message": sentence, "type": judged.verdict}).text = sentence
        elif outcome == "skipped":
            Xml.SubElement(case, outcome, {"message": f"inconclusive: {sentence}"})
        Xml.SubElement(case, "system-out").text = _xml(f"{sentence}\n{power(judged, result.images)}")
    Xml.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suites, encoding="unicode") + "\n"


def markdown(result: GateResult, *, a: str, b: str, flips: Flips | None = None) -> str:
    """A summary in GitHub's Markdown: the verdict, a table of the figures, what the photos can show, the worst photos.

    Args:
        a, b: the models' names.
        flips: what changed photo by photo.
    """
    heads = ["figure", "A", "B", "B − A, points", f"{100 * result.level:g} % interval", "allowed", "verdict"]
    lines = [f"### detkit gate: {_SIGNS[result.verdict]}", "", f"A (baseline): {_code(a)}, B (candidate): {_code(b)}"]
    lines += ["", _row(heads), _row(["---", *["---:"] * 3, "---", "---:", "---"])]
    lines += [_row(_cells(judged)) for judged in result.judged]
    lines += ["", f"{result.images:,} photos, {result.draws} draws, paired by photo.", ""]
    lines += [f"- {_plain(judged.change.figure)}: {power(judged, result.images)}" for judged in result.judged]
    if flips is not None and flips.worse():
        lines += ["", f"<details><summary>The photos B does worse on: {len(flips.worse())}</summary>", ""]
        lines += [
            _row(["photo", "lost", "new false alarms", "found", "false alarms gone"]),
            _row(["---"] + ["---:"] * 4),
        ]
        lines += [_row([_plain(photo.name), *_counts(photo)]) for photo in flips.worse()[:_PHOTOS]]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def power(judged: Judged, images: int) -> str:
    """What these photos can show, in plain words."""
    seen = f"a true loss of {judged.seen_loss_points:.2f} points would be called regressed 4 times in 5"
    if judged.seen_loss_points < 0:
        seen = (
            f"a model that is not {-judged.seen_loss_points:.2f} points better would be called regressed 4 times in 5"
        )
    equal = f"an equal model would pass {_share(judged.pass_if_equal)} of the time"
    wanted = ""
    if judged.photos_needed is not None and judged.photos_needed > images:
        wanted = f" (about {judged.photos_needed:,} photos would make it 80 %)"
    return f"on these {images:,} photos {seen}, and {equal}{wanted}."


def _share(probability: float) -> str:
    return f"{100 * probability:.0f} %" if 0.005 <= probability <= 0.995 else "<1 %" if probability < 0.5 else ">99 %"


def _junit_outcome(judged: Judged, fail_inconclusive: bool) -> str:
    if judged.verdict == "regressed" or (judged.verdict == "inconclusive" and fail_inconclusive):
        return "failure"
    return "skipped" if judged.verdict == "inconclusive" else "passed"


def _cells(judged: Judged) -> list[str]:
    change = judged.change
    low, high = change.interval
    return [
        _plain(change.figure),
        f"{change.a:.4f}",
        f"{change.b:.4f}",
        points(change.delta),
        f"{points(low)} to {points(high)}",
        f"{judged.min_delta_points:+.2f}",
        _SIGNS[judged.verdict],
    ]


def _counts(photo: PhotoFlips) -> list[str]:
    return [str(photo.count(kind)) for kind in ("lost", "new_false", "found", "gone_false")]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _xml(text: str) -> str:
    return _NOT_XML.sub("�", text)
