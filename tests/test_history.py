"""`detkit runs` and what it reads: real run folders, half-written ones, and none at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detkit.config import dump_toml
from detkit.errors import UsageError
from detkit.train.defaults import changed_settings, default_settings, flat_settings
from detkit.train.history import best_figures, find_runs, read_metrics, read_run
from detkit.weights import CARD_KEY, ModelCard

TORCH = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
CONFIG = (
    'data = "somewhere/street5"\nepochs = 16\nsize_px = 320\n\n[model]\nbackbone = "lenet5"\n\n[optim]\nlr = 0.01\n'
)


def row(epoch: int, **val: float) -> dict[str, Any]:
    loss = {"box": 2.0 / epoch, "class": 1.0 / epoch}
    return {"epoch": epoch, "step": 10 * epoch, "seconds": 60.0 * epoch, "loss": loss, "val": val or None}


def make_run(path: Path, rows: list[dict[str, Any]], *, at: float, complete: bool | None = None, **more: Any) -> Path:
    """A run folder as training writes it; `complete` None leaves the summary out."""
    (path / "plots").mkdir(parents=True)
    (path / "config.toml").write_text(CONFIG)
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if complete is not None:
        summary = {"complete": complete, "epochs": rows[-1]["epoch"] if rows else 0, "seconds": 999.0} | more
        (path / "summary.json").write_text(json.dumps(summary))
    for file in path.iterdir():
        os.utime(file, (at, at))
    return path


def write_card(path: Path, card: ModelCard) -> None:
    """The header of a .safetensors file without tensors."""
    header = json.dumps({"__metadata__": {CARD_KEY: card.to_json()}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def detkit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line with PyTorch un-importable."""
    program = f"import sys\nfor n in {TORCH}: sys.modules[n] = None\nfrom detkit.cli import main\nmain()"
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_complete_run(tmp_path: Path) -> None:
    rows = [row(1), row(2, AP=0.3, AP50=0.5), row(3, AP=0.4, AP50=0.7, APs=-1.0), row(4, AP=0.35, AP50=0.8)]
    path = make_run(tmp_path / "street", rows, at=1000, complete=True)
    card = ModelCard("yolo", {"backbone": "resnet18"}, ("cat",), (320, 320), training={"data": "street5"})
    write_card(path / "best.safetensors", card)
    run = read_run(path)
    assert (run.name, run.state, run.task, run.model, run.data) == ("street", "complete", "yolo", "resnet18", "street5")
    assert (run.size_px, run.epochs_done, run.epochs_planned, run.seconds) == (320, 4, 16, 999.0)
    assert (run.best_epoch, run.best) == (3, {"AP": 0.4, "AP50": 0.7, "APs": -1.0})
    assert run.settings["optim.lr"] == 0.01
    assert run.warnings == ()


def test_the_state_is_what_can_be_known(tmp_path: Path) -> None:
    rows = [row(1, AP=0.1)]
    assert read_run(make_run(tmp_path / "a", rows, at=9, complete=True, early=True)).state == "ended early"
    assert read_run(make_run(tmp_path / "b", rows, at=9, complete=False)).state == "interrupted"
    assert read_run(make_run(tmp_path / "c", rows, at=9)).state == "unfinished"
    resumed = make_run(tmp_path / "d", rows, at=9, complete=False)
    os.utime(resumed / "metrics.jsonl", (99, 99))  # written after the run was interrupted: it goes on
    assert read_run(resumed).state == "unfinished"
    further = make_run(tmp_path / "e", [row(1), row(2)], at=9, complete=True, epochs=1)
    assert read_run(further).state == "unfinished"


def test_the_best_epoch_of_landmarks_has_the_lowest_error() -> None:
    rows = [{"epoch": e, "val": val} for e, val in enumerate([{"NME": 0.3}, {}, {"NME": 0.1, "AUC": 1}, {"NME": 0.2}])]
    assert best_figures(rows) == (2, {"NME": 0.1, "AUC": 1})
    assert best_figures([{"epoch": 1, "val": {"AP": -1.0}}]) == (None, {})
    assert best_figures([]) == (None, {})


def test_runs_are_found_two_levels_down_and_listed_newest_first(tmp_path: Path) -> None:
    make_run(tmp_path / "old", [row(1)], at=1000)
    make_run(tmp_path / "group" / "new", [row(1)], at=3000)
    make_run(tmp_path / "group" / "mid", [row(1)], at=2000)
    make_run(tmp_path / "one" / "two" / "three", [row(1)], at=9)  # too deep
    make_run(tmp_path / "old" / "plots" / "inner", [row(1)], at=9)  # inside a run
    make_run(tmp_path / ".trash" / "gone", [row(1)], at=9)
    (tmp_path / "detect").mkdir()  # not a run
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("a = 1")  # anybody's
    assert [run.name for run in find_runs(tmp_path)] == ["group/new", "group/mid", "old"]
    assert [run.name for run in find_runs(tmp_path / "old")] == ["old"]
    with pytest.raises(UsageError, match="no such folder"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is not a folder"):
        find_runs(tmp_path / "other" / "config.toml")


BROKEN = {
    "half a line": ("metrics.jsonl", b'{"epoch": 1, "val": {"AP": 0.5}}\n{"epoch": 2, "st', "metrics.jsonl:2"),
    "not UTF-8": ("metrics.jsonl", b"\xff\xfe\x00", "metrics.jsonl:1"),
    "a list": ("metrics.jsonl", b"[1]\n", "metrics.jsonl:1"),
    "epoch is a text": ("metrics.jsonl", b'{"epoch": "one"}\n', "metrics.jsonl:1"),
    "half a config": ("config.toml", b'[model\nbackbone = "len', "config.toml: is not TOML"),
    "config not UTF-8": ("config.toml", b"a = '\xff'", "config.toml: is not TOML"),
    "half a summary": ("summary.json", b'{"complete": tr', "summary.json"),
    "a summary that is a number": ("summary.json", b"1", "summary.json"),
    "half a model": ("best.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "best.safetensors"),
    "empty model": ("last.safetensors", b"", "last.safetensors: is empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_a_warning_and_the_rest_is_shown(tmp_path: Path, case: str) -> None:
    name, content, warning = BROKEN[case]
    path = make_run(tmp_path / "run", [row(1, AP=0.5)], at=9)
    (path / name).write_bytes(content)
    run = read_run(path)
    assert len(run.warnings) == 1
    assert warning in run.warnings[0]
    if case != "half a config" and name != "config.toml":
        assert run.epochs_planned == 16
    if name != "metrics.jsonl" or case == "half a line":
        assert run.best["AP"] == 0.5


def test_a_folder_with_last_weights_alone_still_tells_something(tmp_path: Path) -> None:
    card = ModelCard("landmarks", {"backbone": "resnet18"}, ("face",), (96, 96), training={"epochs_done": 7})
    write_card(tmp_path / "last.safetensors", card)
    run = find_runs(tmp_path)[0]
    assert (run.task, run.model, run.size_px, run.epochs_done, run.epochs_planned) == (
        "landmarks",
        "resnet18",
        96,
        7,
        None,
    )
    assert "config.toml: cannot be read" in run.warnings[0]


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_no_metrics_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    path.write_bytes(content)
    warnings: list[str] = []
    rows = read_metrics(path, warnings)
    assert all(isinstance(r["epoch"], int) for r in rows)
    assert len(warnings) <= len(content) + 1


def test_rows_are_in_order_and_a_repeated_epoch_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [row(2, AP=0.1), row(1), row(2, AP=0.9), {"epoch": 3, "loss": {"box": None, "x": 1}, "val": {"AP": True}}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_metrics(path, [])
    assert [(r["epoch"], r["val"]) for r in rows] == [(1, {}), (2, {"AP": 0.9}), (3, {})]
    assert rows[2]["loss"] == {"x": 1.0}


def test_the_table_and_json_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", [row(1, AP=0.4, AP50=0.6)], at=1000, complete=True)
    make_run(tmp_path / "runs" / "b", [row(1), row(2, AP=0.2, AP50=0.5)], at=2000)
    (tmp_path / "runs" / "b" / "metrics.jsonl").open("a").write('{"epoch": 3')
    listed = detkit("runs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    header, first, second = listed.stdout.splitlines()
    assert header.split()[:7] == ["run", "model", "data", "px", "epochs", "AP", "AP50"]
    assert first.split()[:8] == ["b", "lenet5", "street5", "320", "2/16", "0.200", "0.500", "2.0"]
    assert second.split()[0] == "a"
    assert "metrics.jsonl:3" in listed.stderr
    assert "Traceback" not in listed.stderr
    by_ap = detkit("runs", "runs", "--sort", "ap", "--json", cwd=tmp_path)
    assert by_ap.returncode == 0, by_ap.stderr
    runs = json.loads(by_ap.stdout)["runs"]
    assert [run["name"] for run in runs] == ["a", "b"]
    assert runs[0]["best"] == {"AP": 0.4, "AP50": 0.6}
    assert runs[0]["changed"]["optim.lr"] == 0.01
    assert "size_px" not in runs[0]["changed"]  # 320 is the default


def test_no_runs_is_one_clear_line(tmp_path: Path) -> None:
    none = detkit("runs", cwd=tmp_path)
    assert (none.returncode, none.stdout) == (0, "")
    assert none.stderr == "no runs in runs; one is made by: detkit train DATA\n"
    assert json.loads(detkit("runs", "--json", cwd=tmp_path).stdout) == {"runs": []}
    missing = detkit("runs", "nowhere", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_a_run_planned_by_time_and_landmarks_in_the_table(tmp_path: Path) -> None:
    path = make_run(tmp_path / "face", [row(1, NME=0.05)], at=9)
    (path / "config.toml").write_text(CONFIG.replace("epochs = 16", "epochs = 16\ntime_min = 30.0\nborn = 2026-01-01"))
    listed = detkit("runs", tmp_path, cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    header, line = listed.stdout.splitlines()
    assert "NME" in header
    assert line.split()[4:8] == ["1/30m", "-", "-", "0.050"]
    assert (
        json.loads(detkit("runs", tmp_path, "--json", cwd=tmp_path).stdout)["runs"][0]["settings"]["born"]
        == "2026-01-01"
    )


def test_the_defaults_read_from_the_source_are_the_real_ones() -> None:
    pytest.importorskip("torch")
    import tomllib

    from detkit.train.settings import TrainSettings

    real = flat_settings(tomllib.loads(dump_toml(TrainSettings())))
    assert flat_settings(default_settings()) == real
    assert changed_settings(real | {"optim.lr": 0.5, "gone": 1}) == {"optim.lr": 0.5, "gone": 1}
