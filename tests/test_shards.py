"""`--shard I/N`: the parts of a run are the run, whoever works on them and whenever."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import pytest
from small_corpus import BAD, detect, lines, make_corpus, name_of

from detkit import cli

PHOTOS = 23


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and in whole/ what a run over all of it writes."""
    folder = make_corpus(tmp_path_factory.mktemp("shards"), PHOTOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert detect("corpus", "--out", "whole", "--to", "csv").exit_code == 3
    return folder


@pytest.fixture(autouse=True)
def here(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(corpus)
    return corpus


def by_item(every_line: list[bytes]) -> dict[str, list[bytes]]:
    """The lines of each item, in their order."""
    found = defaultdict(list)
    for line in every_line:
        found[name_of(line)].append(line)
    return dict(found)


def shard(number: int, count: int, folder: str) -> list[bytes]:
    """What one shard writes; the folder may be another one's too."""
    done = detect("corpus", "--out", folder, "--to", "csv", "--shard", f"{number}/{count}")
    assert done.exit_code in (0, 3), done.stderr
    suffix = "" if count == 1 else f"-{number}-of-{count}"
    return lines(Path(folder, f"detections{suffix}.jsonl"))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_together_are_the_whole_run(count: int) -> None:
    whole = by_item(lines(Path("whole/detections.jsonl")))
    assert len(whole) == PHOTOS + 1  # and the film
    shards = [by_item(shard(number + 1, count, f"by-{count}")) for number in range(count)]
    names = list(whole)
    for number, own in enumerate(shards):
        assert list(own) == names[number::count]  # each item once, in the run's order
        assert own == {name: whole[name] for name in own}  # to the last byte


def test_a_shard_is_the_same_whenever_it_is_run() -> None:
    assert shard(2, 3, "once") == shard(2, 3, "again")


def test_more_shards_than_pictures_leave_some_with_nothing() -> None:
    done = detect("corpus/0.png", "corpus/1.png", "--out", "few", "--to", "csv", "--shard", "3/3")
    assert done.exit_code == 0
    assert lines(Path("few/detections-3-of-3.jsonl")) == []


def test_two_shards_at_the_same_time_in_one_folder() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [
        sys.executable,
        "-m",
        "detkit",
        "detect",
        "corpus",
        "--weights",
        "m.onnx",
        "--backend",
        "onnxruntime",
        "--out",
        "two",
    ]
    shards = [
        subprocess.Popen(
            [*command, "--to", "pictures,csv", "--shard", f"{number}/2"], stderr=subprocess.PIPE, env=environment
        )
        for number in (1, 2)
    ]
    said = [process.communicate(timeout=300)[1] for process in shards]
    assert [process.returncode for process in shards] in ([3, 3], [3, 0], [0, 3]), said
    found = [line for number in (1, 2) for line in lines(Path(f"two/detections-{number}-of-2.jsonl"))]
    times = Counter(name_of(line) for line in found if b'"kind": "photo"' in line or b'"kind": "error"' in line)
    assert times == {f"corpus/{number}.png": 1 for number in range(PHOTOS)}
    good = {f"{number}.png" for number in range(PHOTOS)} - {f"{number}.png" for number in BAD}
    pictures = {path.name for path in Path("two").glob("*.png")}
    assert pictures == good
    assert all(cv2.imread(f"two/{name}") is not None for name in pictures)
    tables = [Path(f"two/detections-{number}-of-2.csv").read_text().splitlines() for number in (1, 2)]
    assert sorted(tables[0][1:] + tables[1][1:]) == sorted(Path("whole/detections.csv").read_text().splitlines()[1:])
    assert not [path for path in Path("two").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "0/0", "2", "/", "1/", "/2", "-1/2", "1/-2", "1/2/3", "a/b", ""])
def test_bad_shards(text: str) -> None:
    done = detect("corpus", "--out", "bad", f"--shard={text}")
    assert done.exit_code == 2
    assert done.stderr.startswith("detkit: error: --shard")
    assert "expected I/N" in done.stderr
    assert not Path("bad").exists()
