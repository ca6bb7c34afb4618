"""`detkit train` at the door and in trouble: broken labels, dry runs, kill -9, and doing it again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree

import pytest

torch = pytest.importorskip("torch")

from test_cli_train import TINY, detkit, shapes  # noqa: E402, F401  (a fixture)

from detkit.models.checkpoint import load_tensors  # noqa: E402
from detkit.weights import read_card  # noqa: E402

QUICK = [*TINY, "--epochs", "2", "--set", "precision=fp32", "--set", "self_test=false"]


@pytest.fixture
def broken(shapes: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The shapes with one photo of the train split cut short."""
    copy = tmp_path / "broken"
    copytree(shapes, copy)
    photo = sorted((copy / "images" / "train").iterdir())[0]
    photo.write_bytes(photo.read_bytes()[:200])
    return copy


def test_broken_data_is_refused_and_named(broken: Path, tmp_path: Path) -> None:
    done = detkit("train", broken, *QUICK, cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in ("1 error on 1 image", "0.png", "detkit data check", "--allow-bad 1"):
        assert word in last
    assert not (tmp_path / "runs").exists()


def test_a_bad_photo_can_be_left_out_and_the_card_says_so(broken: Path, tmp_path: Path) -> None:
    done = detkit("train", broken, *QUICK, "--allow-bad", 1, "--run", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out because of errors: 1 photo" in done.stderr
    training = read_card(tmp_path / "r" / "best.onnx").training
    assert (training["images"], training["left_out_images"]) == (8, 1)
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["data"]["left_out_images"] == 1
    again = detkit("repro", "r", "--steps", 2, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["identical"] is True


def test_a_dry_run_draws_the_first_batch_and_trains_nothing(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    done = detkit("train", shapes, *TINY, "--dry-run", "--run", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "anchors:" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r-first_batch.png"]


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(
    shapes: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = ["train", shapes, *TINY, "--epochs", "6", "--set", "precision=fp32", "--set", "self_test=false"]
    words += ["--set", "save_every_min=0"]
    whole = detkit(*words, "--run", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "detkit", *map(str, words), "--run", "killed"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    steps = tmp_path / "killed" / "steps.jsonl"
    deadline = time.monotonic() + 120
    while not (steps.exists() and steps.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = detkit("train", "--resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    kept, full = ((tmp_path / name / "steps.jsonl").read_text() for name in ("killed", "whole"))
    assert kept == full


def test_doing_it_again(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    assert detkit("train", shapes, *QUICK, "--run", "r", cwd=tmp_path).returncode == 0
    same = detkit("repro", "r", "--steps", 3, cwd=tmp_path)
    assert (same.returncode, same.stdout) == (0, "")
    assert "identical: 3 steps" in same.stderr
    path = tmp_path / "r" / "steps.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["norm"] += 1e-9
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = detkit("repro", "r", cwd=tmp_path)
    assert other.returncode == 6
    assert "step 2 of r came out otherwise: the gradient differs" in other.stderr
    assert detkit("repro", "nowhere", cwd=tmp_path).returncode == 2
