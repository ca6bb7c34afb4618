"""A corpus in blocks: how it is cut, when parts of an earlier run are gone on with, and how they are joined."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from detkit.errors import DataError, RunError, UsageError
from detkit.infer.frames import Item
from detkit.infer.journal import read_journal
from detkit.infer.parts import Block, PartFormat, Parts, cut
from detkit.infer.records import Record, json_line, run_record

HEADER = run_record(
    file="m.onnx", sha256="0", engine="onnxruntime", class_names=("red",), settings={"conf": 0.5, "shard": "1/1"}
)
BOX = {"label": 0, "class": "red", "score": 0.75, "box_xyxy": [0.5, 1.0, 2.0, 3.125]}


def photo(name: str, *boxes: Record) -> Record:
    return {"version": 2, "kind": "photo", "name": name, "width": 4, "height": 6, "detections": list(boxes)}


def items(*names: str) -> list[tuple[int, Item]]:
    kinds = {name: "video" if name.endswith(".mp4") else "photo" for name in names}
    return [(i, Item(name, Path(name), kinds[name])) for i, name in enumerate(names)]  # type: ignore[arg-type]


def names(blocks: list[Block]) -> list[list[str]]:
    return [[item.name for _, item in block.items] for block in blocks]


@pytest.fixture
def blocks() -> list[Block]:
    return cut(items("a", "b", "c"), 1)


def begun(out: Path, blocks: list[Block], form: PartFormat = "jsonl", **settings: Any) -> Parts:
    parts = Parts(out, form)
    parts.begin(HEADER, blocks, **{"resume": False, **settings})
    return parts


def test_cut() -> None:
    assert cut([], 2) == []
    assert names(cut(items("a", "b", "c", "f.mp4", "g.mp4", "d", "e"), 2)) == [
        ["a", "b"],
        ["c"],
        ["f.mp4"],
        ["g.mp4"],
        ["d", "e"],
    ]
    odd = [(5, Item("a", Path("a"))), (9, Item("b", Path("b")))]  # of a run that is resumed
    assert cut(odd, 64) == [Block(0, tuple(odd))]


def test_parts_join_in_order_and_are_gone(tmp_path: Path, blocks: list[Block]) -> None:
    parts = begun(tmp_path, blocks)
    for block in reversed(blocks):
        tally = parts.write(block, HEADER, [photo(block.items[0][1].name, BOX, BOX)])
        assert (tally.pictures, tally.objects, tally.errors) == (1, {"red": 2}, [])
    assert parts.tally(1).objects == {"red": 2}
    parts.join(tmp_path / "all.jsonl", HEADER, blocks)
    expected = json_line(HEADER) + b"".join(json_line(photo(name, BOX, BOX)) for name in "abc")
    assert (tmp_path / "all.jsonl").read_bytes() == expected
    assert os.listdir(tmp_path) == ["all.jsonl"]


def test_join_goes_on_after_what_is_there(tmp_path: Path, blocks: list[Block]) -> None:
    done = tmp_path / "all.jsonl"
    whole = json_line(HEADER) + json_line(photo("z"))
    done.write_bytes(whole + b'{"version": 2, "kind": "pho')  # a plain run was killed here
    parts = begun(tmp_path, blocks[:1])
    parts.write(blocks[0], HEADER, [photo("a")])
    parts.join(done, HEADER, blocks[:1], read_journal(done))
    assert done.read_bytes() == whole + json_line(photo("a"))


def test_a_missing_part_is_no_result(tmp_path: Path, blocks: list[Block]) -> None:
    parts = begun(tmp_path, blocks)
    parts.write(blocks[1], HEADER, [photo("b")])
    assert parts.done(blocks) == {1}
    with pytest.raises(RunError, match="one shared disk; found 2 of 3 missing"):
        parts.join(tmp_path / "all.jsonl", HEADER, blocks)
    assert not (tmp_path / "all.jsonl").exists()
    assert parts.done(blocks) == {1}


def test_a_part_is_whole_or_not_there(tmp_path: Path, blocks: list[Block]) -> None:
    def broken() -> Any:
        yield photo("a")
        raise DataError("is damaged", file="a")

    parts = begun(tmp_path, blocks)
    with pytest.raises(DataError):
        parts.write(blocks[0], HEADER, broken())
    assert parts.done(blocks) == set()
    assert not list(parts.folder.glob(".*.part*"))


def test_a_block_that_ends_its_workers_is_given_up(tmp_path: Path, blocks: list[Block]) -> None:
    class Death(BaseException):
        pass

    def dies() -> Any:
        raise Death
        yield

    parts = begun(tmp_path, blocks)
    for _ in range(3):
        with pytest.raises(Death):
            parts.write(blocks[0], HEADER, dies())
    with pytest.raises(RunError, match=r"died 3 times.*found a to a"):
        parts.write(blocks[0], HEADER, dies())
    parts.write(blocks[1], HEADER, [])
    begun(tmp_path, blocks, resume=True).write(blocks[0], HEADER, [photo("a")])  # another chance
    assert parts.done(blocks) == {0, 1}


def test_parts_of_two_runs_are_never_mixed(tmp_path: Path, blocks: list[Block]) -> None:
    begun(tmp_path, blocks)
    parts = begun(tmp_path, blocks[:2])  # nothing was done yet: a new run
    parts.write(blocks[0], HEADER, [])
    with pytest.raises(UsageError, match="go on with it with --resume"):
        parts.begin(HEADER, blocks[:2], resume=False)
    parts.begin(HEADER, blocks[:2], resume=True)
    with pytest.raises(UsageError, match="other pictures"):
        parts.begin(HEADER, blocks, resume=True)
    other = HEADER | {"settings": HEADER["settings"] | {"conf": 0.25}}
    with pytest.raises(UsageError, match=r"other settings.*found conf 0.5; expected conf 0.25"):
        parts.begin(other, blocks[:2], resume=True)
    assert parts.done(blocks) == {0}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, blocks: list[Block]) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "list.csv").write_text("wheel")
    with pytest.raises(UsageError, match="no parts of a run"):
        begun(tmp_path, blocks, resume=True)
    assert os.listdir(tmp_path / "parts") == ["list.csv"]


def test_a_folder_that_cannot_be_made(tmp_path: Path, blocks: list[Block]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        begun(tmp_path / "file", blocks)


def test_parquet_holds_every_kind_of_record(tmp_path: Path, blocks: list[Block]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the ray extra")
    points = {"nose": [1.0, 2.0, 0.5], "left eye": [3.0, 4.0, 1.0]}
    frame = photo("f.mp4", BOX | {"points": points}) | {"kind": "frame", "frame": 7, "time_s": 0.28}
    error = {"version": 2, "kind": "error", "name": "bad\udcff.jpg", "error": "bad\udcff.jpg: is empty"}
    end = {"version": 2, "kind": "video", "name": "f.mp4", "frames": 1, "duration_s": 0.04, "warning": "damaged"}
    parts = begun(tmp_path, blocks, "parquet")
    tally = parts.write(blocks[0], HEADER, [photo("a"), error, frame, end])
    assert (tally.pictures, tally.errors, tally.warnings) == (2, ["bad\udcff.jpg: is empty"], ["f.mp4: damaged"])
    parts.write(blocks[1], HEADER, [])
    assert [path.name for path in sorted(parts.folder.iterdir())] == [
        "_run.jsonl",
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    rows = parquet.read_table(parts.folder).to_pylist()
    said = [{key: value for key, value in row.items() if value is not None} for row in rows]
    assert said[0] == photo("a")
    assert said[1] == error | {"name": "bad\\udcff.jpg", "error": "bad\\udcff.jpg: is empty"}
    assert dict(said[2]["detections"][0].pop("points")) == points
    assert said[2] == photo("f.mp4", BOX) | {"kind": "frame", "frame": 7, "time_s": 0.28}
    assert said[3] == end
    assert parts.tally(0).objects == {"red": 1}
    header = parquet.read_schema(parts.file(1)).metadata[b"detkit"]
    assert header + b"\n" == json_line(HEADER)
    parts.file(1).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        parts.tally(1)
