"""Several processes that train one network: two of them reach what one does, and judge exactly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_cli_train import TINY, shapes  # noqa: E402, F401  (a fixture)

from detkit.errors import UsageError  # noqa: E402
from detkit.train.distributed import ALONE, Team, join_team  # noqa: E402

SCRIPT = """
import sys, torch
from detkit.train.distributed import join_team
with join_team() as team:
    assert team.size == 2
    assert team.from_leader({"from": team.rank}) == {"from": 0}
    part = [10 * i for i in team.share_out(5)]
    assert team.gathered(part, 5) == [0, 10, 20, 30, 40], part
    assert team.any(team.rank == 1) and not team.any(False)
    assert team.mean({"a": float(team.rank), "b": 2.0}) == {"a": 0.5, "b": 2.0}
    tensors = {"t": torch.full((3,), float(team.rank)), "count": torch.tensor(team.rank)}
    team.spread(tensors)
    assert tensors["t"].tolist() == [0, 0, 0] and tensors["count"].item() == 0
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(*words: object, cwd: Path, processes: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run a Python command in several processes with the environment `torchrun` gives them."""
    port = str(free_port())
    running = []
    for rank in range(processes):
        team = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
        environment = os.environ | team | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, *map(str, words)]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=cwd, env=environment, stdout=pipe, stderr=pipe, text=True))
    ended = []
    for process in running:
        out, err = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


def test_what_the_processes_exchange(tmp_path: Path) -> None:
    for process in together("-c", SCRIPT, cwd=tmp_path):
        assert process.returncode == 0, process.stderr


def test_alone_every_exchange_is_immediate() -> None:
    assert ALONE.leads
    assert ALONE.from_leader("x") == "x"
    assert ALONE.gathered([1, 2], 2) == [1, 2]
    assert list(Team(rank=1, size=3).share_out(7)) == [1, 4]
    with join_team() as team:
        assert team == ALONE


def test_a_broken_environment_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="RANK"), join_team():
        pass


def test_two_processes_reach_what_one_does(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    run = ["-m", "detkit", "train", shapes, *TINY, "--epochs", "12", "--set", "optim.lr=0.005"]
    run += ["--set", "precision=fp32", "--set", "augment.mosaic=0", "--set", "self_test=false", "--set", "val_every=12"]
    (alone,) = together(*run, "--run", tmp_path / "one", cwd=tmp_path, processes=1)
    both = together(*run, "--run", tmp_path / "two", "--json", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert [p.returncode for p in both] == [0, 0], both[0].stderr + both[1].stderr
    assert both[1].stdout == both[1].stderr == ""  # one of them talks
    assert json.loads(both[0].stdout)["complete"] is True
    rows = [
        [json.loads(line) for line in (tmp_path / name / "steps.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    apart, together_ = (np.array([sum(row["losses"].values()) for row in r]) for r in rows)
    assert np.corrcoef(apart, together_)[0, 1] > 0.9  # the same canvases in the same order
    assert np.abs(apart / together_ - 1).mean() < 0.1  # not equal: batch norms see half of them
    for row in rows:
        classes = [step["losses"]["class"] for step in row]
        assert np.mean(classes[-8:]) < 0.9 * np.mean(classes[:8])
    one, two = (tmp_path / name / "best.onnx" for name in ("one", "two"))
    assert one.exists()
    (judged,) = together("-m", "detkit", "eval", shapes, "--weights", two, "--json", cwd=tmp_path, processes=1)
    noted = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])["val"]
    assert json.loads(judged.stdout)["AP"] == pytest.approx(noted["AP"], abs=1e-3)  # what two looked at in halves


def test_a_batch_that_cannot_be_shared_out_is_one_line(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    ended = together("-m", "detkit", "train", shapes, *TINY, "--batch", "3", cwd=tmp_path)
    assert all(process.returncode == 2 for process in ended)
    assert "multiple of the number of processes" in ended[0].stderr
    assert "Traceback" not in ended[0].stderr + ended[1].stderr


def test_torchrun_takes_none_of_our_options_for_its_own() -> None:
    from torch.distributed.run import get_args_parser

    from detkit.cli import _load

    names = {name for parameter in _load("train").params for name in parameter.opts if name.startswith("-")}
    for name in names - {"--run"}:  # it has --run-path; ours is --run-dir, too
        parsed = get_args_parser().parse_args(["--nproc-per-node", "2", "-m", "detkit", "train", "data", name, "x"])
        assert parsed.training_script_args == ["train", "data", name, "x"]
