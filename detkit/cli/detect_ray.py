"""`detkit detect --ray`: the same run on a Ray cluster, its records into files that are joined at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from detkit.cli import terminal
from detkit.cli.detect import Request
from detkit.cli.detect_run import check_options, open_predictor, predictor_settings, reading_of, settings_of
from detkit.errors import DataError, UsageError
from detkit.infer.frames import Item
from detkit.infer.job import header_of
from detkit.infer.journal import Journal, read_journal, read_records
from detkit.infer.parts import Block, PartFormat, Parts, Tally, cut
from detkit.infer.ray_job import load_ray, run_on_ray
from detkit.infer.ray_worker import RayJob
from detkit.infer.records import RECORDS_VERSION, Record
from detkit.infer.sinks.opening import JOURNAL_NAME, Outputs, open_sinks
from detkit.infer.sources import find_items

_FROM_RECORDS = frozenset({"coco", "csv"})  # kinds of output that are made when all records are there


def detect_on_ray(request: Request, address: str, form: PartFormat = "jsonl") -> None:
    """Find the objects on a cluster, write their records, and print how many there are of each class.

    Args:
        request: what is asked for; `to` may hold "coco" and "csv".
        address: see `run_on_ray`.
        form: one file of records, or a folder of Parquet files.
    Raises:
        DataError: at the end, when something could not be read.
    """
    check_options(request)
    folder = _checked(request, form)
    load_ray()
    items = _items(request, folder)
    reading, extra = reading_of(request), settings_of(request)
    predictor = open_predictor(request, items)
    header = header_of(predictor, reading, extra)
    del predictor  # the workers need its memory
    journal = read_journal(folder / JOURNAL_NAME) if request.resume and form == "jsonl" else None
    if journal is not None:
        journal.check_same_run(header)
    done = frozenset() if journal is None else journal.done
    blocks = cut([(index, item) for index, item in enumerate(items) if item.name not in done])
    job = RayJob(request.weights, predictor_settings(request), header, extra, reading, request.strict)
    parts, start_s = Parts(folder, form), time.perf_counter()
    total = _run(job, parts, blocks, address, resume=request.resume)
    took_s = time.perf_counter() - start_s
    if form == "parquet":
        parts.check_complete(blocks)
    else:
        total.merge(_tally_of(journal))
        parts.join(folder / JOURNAL_NAME, header, blocks, journal)
    if request.to:
        resumed = read_journal(folder / JOURNAL_NAME)
        open_sinks(Outputs(folder, request.to), items, header, resumed=resumed).close()
    _say(total, request, header, parts.folder if form == "parquet" else folder / JOURNAL_NAME, took_s)
    if total.errors:
        kinds = "photos" if all(item.kind == "photo" for item in items) else "items"
        raise DataError(f"{len(total.errors)} of {len(items)} {kinds} could not be read")


def _checked(request: Request, form: PartFormat) -> Path:
    """The folder for the results; UsageError for what is not done on a cluster."""
    asked = {
        "--show": request.show,
        "--jsonl": request.jsonl is not None,
        "--shard": request.shard != (1, 1),
        "--track": request.track,
        "--adapter": bool(request.adapter),
        f"--to {','.join(request.to)}": not _FROM_RECORDS.issuperset(request.to),
    }
    refused = [option for option, is_asked in asked.items() if is_asked]
    if refused:
        expected = "records in --out, --to coco,csv; for all else split the work with --shard"
        raise UsageError("this is not done with --ray", found=", ".join(refused), expected=expected)
    if form == "parquet" and request.to:
        raise UsageError("--to is made from --ray-format jsonl", found="--ray-format parquet")
    assert request.folder is not None, "the command gives one with --ray"
    return request.folder


def _tally_of(journal: Journal | None) -> Tally:
    """What an earlier run has joined already."""
    tally = Tally()
    for record in () if journal is None else read_records(journal.file):
        tally.add(record)
    return tally


def _say(total: Tally, request: Request, header: Record, result: Path, took_s: float) -> None:
    """Print the totals; the records are where `result` says."""
    model, objects = header["model"], sum(total.objects.values())
    if request.json:
        document = {"version": RECORDS_VERSION, "model": {key: model[key] for key in ("file", "engine", "class_names")}}
        document |= {"pictures": total.pictures, "objects": dict(total.objects.most_common())}
        terminal.print_json(document | {"errors": len(total.errors), "records": str(result)})
    elif objects:
        rows = [[name, f"{count:,}"] for name, count in total.objects.most_common()]
        terminal.print_table(["class", "objects"], rows, right=["objects"])
    found = f"{terminal.count(objects, 'object')} in {terminal.count(total.pictures, 'picture')}"
    terminal.say(f"{found} in {took_s:.0f} s, by {model['file']} on {model['engine']}")
    terminal.say(f"records: {result}")


def _items(request: Request, folder: Path) -> tuple[Item, ...]:
    items = find_items(request.sources, leave_out=folder)
    streams = [item.name for item in items if item.kind == "stream"]
    if streams:
        raise UsageError("a live stream cannot be split among machines; leave --ray away", found=streams[0])
    return items


def _run(job: RayJob, parts: Parts, blocks: Sequence[Block], address: str, *, resume: bool) -> Tally:
    """Do the blocks; gives what is in all of them, those of an earlier run included."""
    total = Tally()
    if not blocks:
        return total
    parts.begin(job.header, blocks, resume=resume)
    done = parts.done(blocks)
    for number in done:
        total.merge(parts.tally(number))
    if resume and not done:
        terminal.say(f"{parts.folder}: no earlier run to go on with; starting from the beginning")
    elif done:
        terminal.say(f"{parts.folder}: {len(done)} of {len(blocks)} parts are done; going on with the rest")
    reports = run_on_ray(job, parts, blocks, address)
    for report in terminal.progress(reports, total=len(blocks) - len(done), title="detecting, in parts"):
        for message in [*report.tally.errors, *report.tally.warnings]:
            terminal.warn(message)
        total.merge(report.tally)
    return total
