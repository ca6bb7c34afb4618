"""All sinks as one: the order of the lines, what a failure leaves, threads that end, and a resumed run."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path

import pytest
from sink_items import found, frame_of, header, photo, record_of, video

from detkit import files
from detkit.errors import DataError, RunError, UsageError
from detkit.images import read_image, write_image
from detkit.infer.frames import Ended, Item, Unreadable
from detkit.infer.journal import read_journal, read_records
from detkit.infer.records import ended_record, error_record, json_line
from detkit.infer.sinks import Sinks
from detkit.infer.sinks.jsonl import JsonlFile
from detkit.infer.sinks.opening import KINDS, Outputs, open_sinks
from detkit.infer.sinks.workers import IN_FLIGHT, Workers

ITEMS = [photo("a.jpg"), photo("sub/b.png"), photo("bad.jpg"), photo("c.jpg")]


class Slow:
    """A sink whose pictures are done when the test says so, and that notes its calls."""

    def __init__(self) -> None:
        self.futures: list[Future[None]] = []
        self.calls: list[str] = []

    def write(self, frame: object, detections: object, record: object) -> Future[None]:
        self.futures.append(Future())
        return self.futures[-1]

    def unreadable(self, item: Unreadable, record: object) -> None:
        self.calls.append(f"unreadable {item.index}")

    def ended(self, ended: Ended, record: object) -> None:
        self.calls.append(f"ended {ended.index}")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


def write(sinks: Sinks, item: Item, index: int = 0) -> dict:
    frame = frame_of(item, index)
    return sinks.write(frame, found(), record_of(frame, found()))


def bad(item: Item = ITEMS[2]) -> tuple[Unreadable, dict]:
    broken = Unreadable(item.name, 2, DataError("is empty", file=item.name), item)
    return broken, error_record(broken)


def names_in(stream: BytesIO) -> list[str]:
    return [line.split(b'"name": "')[1].split(b'"')[0].decode() for line in stream.getvalue().splitlines()]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("detkit-sink")}


# ---- order -------------------------------------------------------------------------------------------------------


def test_a_line_waits_for_its_picture_and_for_the_lines_before_it() -> None:
    slow, stream = Slow(), BytesIO()
    sinks = Sinks([slow], [JsonlFile(stream)])
    write(sinks, ITEMS[0])
    sinks.unreadable(*bad())
    assert names_in(stream) == []
    write(sinks, ITEMS[3], 3)
    slow.futures[1].set_result(None)
    sinks.ended(Ended("in/x.mp4", 4, video("x.mp4"), 0), ended_record(Ended("in/x.mp4", 4, video("x.mp4"), 0)))
    assert names_in(stream) == []
    slow.futures[0].set_result(None)
    sinks.flush()
    assert names_in(stream) == ["in/a.jpg", "in/bad.jpg", "in/c.jpg", "in/x.mp4"]
    sinks.close()
    assert slow.calls == ["unreadable 2", "ended 4", "close"]


def test_the_first_failure_stops_the_run_and_no_line_follows_it() -> None:
    slow, stream = Slow(), BytesIO()
    sinks = Sinks([slow], [JsonlFile(stream)])
    for index in (0, 1, 3):
        write(sinks, ITEMS[index], index)
    slow.futures[0].set_result(None)
    slow.futures[1].set_exception(RunError("disk full"))
    slow.futures[2].set_result(None)
    with pytest.raises(RunError, match="full"), sinks:
        pass  # closing waits for what is under way
    assert names_in(stream) == ["in/a.jpg"]
    assert slow.calls == ["abort"]


def test_what_is_done_when_a_run_is_broken_off_is_in_the_journal() -> None:
    slow, stream = Slow(), BytesIO()
    sinks = Sinks([slow], [JsonlFile(stream)])
    for index in (0, 1, 3):
        write(sinks, ITEMS[index], index)
    slow.futures[0].set_result(None)
    slow.futures[2].set_result(None)
    with pytest.raises(KeyboardInterrupt), sinks:
        raise KeyboardInterrupt
    assert names_in(stream) == ["in/a.jpg"]


def test_a_reader_that_left_is_passed_on_and_nothing_is_written_after_it() -> None:
    class Closed(BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    slow, journal = Slow(), BytesIO()
    with pytest.raises(BrokenPipeError), Sinks([slow], [JsonlFile(journal), JsonlFile(Closed())]) as sinks:
        sinks.unreadable(*bad())
    assert slow.calls == ["unreadable 2", "abort"]
    assert names_in(journal) == ["in/bad.jpg"]


def test_no_line_follows_one_whose_writing_was_interrupted() -> None:
    class Interrupted(BytesIO):
        calls = 0

        def write(self, data: object) -> int:
            self.calls += 1
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().write(data)

    slow, stream = Slow(), Interrupted()
    sinks = Sinks([slow], [JsonlFile(stream)])
    write(sinks, ITEMS[0])
    write(sinks, ITEMS[1], 1)
    for future in slow.futures:
        future.set_result(None)
    with pytest.raises(KeyboardInterrupt), sinks:
        pass
    assert stream.getvalue() == b""


def test_every_line_is_flushed() -> None:
    class Flushed(BytesIO):
        flushed = b""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    stream = Flushed()
    Sinks([], [JsonlFile(stream)]).unreadable(*bad())
    assert stream.flushed == json_line(bad()[1])


# ---- threads -----------------------------------------------------------------------------------------------------


def test_workers_are_bounded_and_raise_the_first_failure() -> None:
    workers, go, started = Workers(2), threading.Event(), []
    for number in range(2 * IN_FLIGHT):
        workers.submit(lambda number=number: (started.append(number), go.wait(10)))
    waiting = threading.Thread(target=lambda: workers.submit(lambda: started.append(-1)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert -1 not in started
    go.set()
    waiting.join(10)
    failing = workers.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: started.append(-2))
    with pytest.raises(ZeroDivisionError):
        workers.close()
    assert -2 not in started
    assert not threads()
    with pytest.raises(ValueError, match="0 workers"):
        Workers(0)


def test_broken_off_workers_drop_what_waits_and_leave_no_thread() -> None:
    workers, go, entered, done = Workers(1), threading.Event(), threading.Event(), []

    def first() -> None:
        entered.set()
        go.wait(10)
        done.append(1)

    workers.submit(first)
    dropped = workers.submit(lambda: done.append(2))
    entered.wait(10)
    threading.Timer(0.02, go.set).start()
    workers.abort()
    assert done == [1]
    assert dropped.cancelled()
    assert not threads()


# ---- a whole run -------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    monkeypatch.chdir(tmp_path)
    for item in ITEMS:
        Path(item.name).parent.mkdir(parents=True, exist_ok=True)
        write_image(item.name, frame_of(item).image_rgb)
    return [Item(item.name, item.relative, path=Path(item.name)) for item in ITEMS]


def run(folder: str, items: list[Item], first: int = 0, last: int = 4, **settings: object) -> None:
    """What `detect` does: the items that are not done, the third of which cannot be read."""
    outputs = Outputs(Path(folder), tuple(kind for kind in KINDS if kind != "videos"))
    with open_sinks(outputs, items, header(), **settings) as sinks:
        for index, item in list(enumerate(items))[first:last]:
            if index == 2:
                sinks.unreadable(*bad(item))
            else:
                write(sinks, item, index)
        if last < len(items):
            raise KeyboardInterrupt


def tree(folder: str) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


WRITTEN = {
    "a.jpg", "sub/b.png", "c.jpg", "detections.jsonl", "detections.csv", "coco.json", "coco_results.json",
    "data.yaml", "classes.txt", "labels/a.txt", "labels/sub/b.txt", "labels/c.txt",
    "Annotations/a.xml", "Annotations/sub/b.xml", "Annotations/c.xml",
    "crops/red/a-1.jpg", "crops/red/sub/b-1.jpg", "crops/red/c-1.jpg",
    "crops/blau & grün/a-2.jpg", "crops/blau & grün/sub/b-2.jpg", "crops/blau & grün/c-2.jpg",
}  # fmt: skip


def test_a_run_writes_all_kinds_and_says_where_the_pictures_are(inputs: list[Item]) -> None:
    before = tree("in")
    run("out", inputs)
    assert set(tree("out")) == WRITTEN
    assert tree("in") == before
    lines = list(read_records(Path("out/detections.jsonl")))
    assert lines[0] == header()
    assert [line["name"] for line in lines[1:]] == [item.name for item in inputs]
    assert [line.get("picture") for line in lines[1:]] == ["out/a.jpg", "out/sub/b.png", None, "out/c.jpg"]
    assert not threads()


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_run_repeats_nothing_and_gives_the_same_files(stop: int, inputs: list[Item]) -> None:
    run("out", inputs)
    whole = tree("out")
    for name in whole:
        Path("out", name).unlink()
    with pytest.raises(KeyboardInterrupt):
        run("out", inputs, last=stop)
    assert not Path("out/coco.json").exists()
    with Path("out/detections.jsonl").open("ab") as stream:
        stream.write(b'{"version": 2, "kind": "pho')  # torn
    journal = read_journal(Path("out/detections.jsonl"))
    done = [item.name for item in inputs[:stop]]
    assert journal.done <= set(done)  # pictures on their way when the run was broken off are not
    copy = BytesIO()
    run("out", inputs, len(journal.done), resumed=journal, stdout=copy)
    assert copy.getvalue() == whole["detections.jsonl"]
    assert tree("out") == whole


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (Outputs(Path("out"), jsonl=Path("in/../out/detections.jsonl")), "is the journal"),
        (Outputs(jsonl=Path("in/a.jpg")), "would replace this input"),
        (Outputs(Path("in"), journal_name="c.jpg"), "would replace this input"),
        (Outputs(Path("in"), ("pictures",)), "would replace this input"),
    ],
)
def test_records_go_neither_into_an_input_nor_twice_into_the_journal(
    outputs: Outputs, said: str, inputs: list[Item]
) -> None:
    before = tree("in")
    with pytest.raises(UsageError, match=said):
        open_sinks(outputs, inputs, header())
    assert tree("in") == before
    assert not Path("in/detections.jsonl").exists()


def test_shards_share_a_folder(inputs: list[Item]) -> None:
    twins = [photo("a.jpg", name=f"{folder}/a.jpg") for folder in ("x", "y")]
    for number, item in enumerate(twins, 1):
        outputs = Outputs(Path("out"), ("pictures", "coco", "csv"), journal_name=f"detections-{number}-of-2.jsonl")
        with open_sinks(outputs, twins, header()) as sinks:
            write(sinks, item)
    of_each = [f"{name}-{number}-of-2" for number in (1, 2) for name in ("coco", "coco_results", "detections")]
    assert {file.stem for file in Path("out").iterdir()} == {"a", "a-2", *of_each}
    assert len(tree("out")) == 2 + 2 * 4


def test_a_file_of_records_alone_is_a_journal(inputs: list[Item]) -> None:
    outputs = Outputs(jsonl=Path("lines/all.jsonl"))
    with open_sinks(outputs, inputs, header()) as sinks:
        write(sinks, inputs[0])
    journal = read_journal(outputs.journal)
    assert journal.done == {"in/a.jpg"}
    stdout = BytesIO()
    with open_sinks(outputs, inputs, header(), resumed=journal, stdout=stdout) as sinks:
        sinks.unreadable(*bad())
    assert stdout.getvalue() == Path("lines/all.jsonl").read_bytes()
    assert stdout.getvalue().count(b"\n") == 3
    assert not stdout.closed
    assert Outputs().journal is None


def test_a_second_file_of_records_equals_the_journal(inputs: list[Item]) -> None:
    outputs = Outputs(Path("out"), jsonl=Path("all.jsonl"))
    for resumed in (False, True):
        journal = read_journal(outputs.journal) if resumed else None
        with open_sinks(outputs, inputs, header(), resumed=journal) as sinks:
            write(sinks, inputs[resumed], int(resumed))
        assert Path("all.jsonl").read_bytes() == Path("out/detections.jsonl").read_bytes()
    assert Path("all.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("suffix", "done"),
    [
        (".jpg", []),
        (".xml", []),
        ("b.png", ["in/a.jpg"]),
        (".csv", ["in/a.jpg", "in/sub/b.png", "in/bad.jpg", "in/c.jpg"]),
    ],
)
def test_a_full_disk_leaves_whole_files(
    suffix: str, done: list[str], inputs: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(self: Path, target: Path) -> Path:
        if str(target).endswith(suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    real = files.Path.replace
    monkeypatch.setattr(files.Path, "replace", no_space)
    with pytest.raises(RunError, match="cannot be written; found No space left"):
        run("out", inputs)
    names = [line["name"] for line in list(read_records(Path("out/detections.jsonl")))[1:]]
    assert names == done
    assert not list(Path("out").rglob(".*"))
    assert not threads()
    for name in names:
        if name != "in/bad.jpg":
            read_image(Path("out") / Path(name).relative_to("in"))


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path) -> None:
    class Full:
        """A disk with room for ten bytes more."""

        def __init__(self, stream: object) -> None:
            self.stream = stream

        def write(self, data: memoryview) -> int:
            if len(data) <= 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(data[:10])

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    lines = JsonlFile.new(tmp_path / "j")
    lines.write(header())
    before = (tmp_path / "j").read_bytes()
    lines._stream = Full(lines._stream)
    record = bad()[1]
    with pytest.raises(RunError, match="No space left"):
        lines.write(record)
    assert (tmp_path / "j").read_bytes() == before
    lines._stream = lines._stream.stream
    lines.write(record)
    lines.close()
    assert (tmp_path / "j").read_bytes() == before + json_line(record)


def test_a_pipe_given_by_its_name_takes_lines(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    lines = JsonlFile.new(tmp_path / "pipe")
    lines.write(header())
    lines.close()
    reader.join(10)
    assert got == [json_line(header())]


@pytest.mark.parametrize(
    "wrong", [{"to": ("pictures", "xml")}, {"workers": 0}, {"crop_margin": -1.0}, {"to": ("csv",), "folder": None}]
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Outputs(**{"folder": Path("out")} | wrong)


def test_exports_need_a_journal() -> None:
    with pytest.raises(ValueError, match="journal"):
        Sinks([], [JsonlFile(BytesIO())], exports=[lambda records: None])


def test_nothing_at_all_is_a_run_too(inputs: list[Item]) -> None:
    run("out", [], last=0)
    assert set(tree("out")) == {
        "detections.jsonl",
        "detections.csv",
        "coco.json",
        "coco_results.json",
        "data.yaml",
        "classes.txt",
    }


def test_an_output_folder_that_is_a_file_is_a_run_error(inputs: list[Item]) -> None:
    Path("out").write_text("a file")
    with pytest.raises(RunError):
        run("out", inputs)
