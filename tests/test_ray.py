"""`detkit detect --ray` on a Ray of two cores: the same records as without, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from small_corpus import BAD, detect, lines, make_corpus

from detkit import cli

PHOTOS = 200  # four blocks, and the film
OUTPUTS = ("detections.jsonl", "coco.json", "coco_results.json", "detections.csv")
Asked = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and in plain/ what a run without Ray writes."""
    folder = make_corpus(tmp_path_factory.mktemp("ray"), PHOTOS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert detect("corpus", "--out", "plain", "--to", "coco,csv").exit_code == 3
    return folder


@pytest.fixture(autouse=True)
def here(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(corpus)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or Ray writes a token into the home folder
    return corpus


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores in this process, which `--ray` uses."""
    pytest.importorskip("ray", reason="Ray comes with the ray extra")
    pytest.importorskip("pyarrow", reason="pyarrow comes with the ray extra")
    from detkit.infer.ray_job import load_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray = load_ray()
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            pytest.skip("Ray does not start within its 30 s here: the machine has too much to do")
        yield
        ray.shutdown()


@pytest.fixture
def photo_server(corpus: Path) -> Iterator[tuple[str, list[Asked]]]:
    """The address of a server for the photos, and what is done, one each, with its first requests."""
    actions: list[Asked] = []

    class Photos(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if actions:
                actions.pop(0)(self)
            data = (corpus / "corpus" / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # whoever asked is dead
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Photos) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", actions
        server.shutdown()


def listed(server: str, number: int, name: str) -> Path:
    """A list of all photos, with the one of this number on the server."""
    paths = [f"corpus/{k}.png" for k in range(PHOTOS)]
    paths[number] = f"{server}/{number}.png"
    Path(name).write_text("\n".join([*paths, "corpus/film.mp4"]))
    return Path(name)


def client_of(request: BaseHTTPRequestHandler) -> int:
    """The process at the other end of a connection on this machine."""
    port = f":{request.client_address[1]:04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port)}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in sockets and int(link.parts[2]) != os.getpid():  # noqa: PTH115
                return int(link.parts[2])
        except OSError:
            continue
    raise AssertionError("nobody is there")


def same_records(folder: str, plain: str = "plain") -> bool:
    return lines(Path(folder, "detections.jsonl")) == lines(Path(plain, "detections.jsonl"))


def test_the_same_files_as_without_ray(cluster: None) -> None:
    done = detect("corpus", "--ray", "local", "--out", "joined", "--to", "coco,csv")
    assert done.exit_code == 3
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert len(warnings) == len(BAD)
    assert done.stderr.splitlines()[-1] == f"detkit: error: {len(BAD)} of {PHOTOS + 1} items could not be read"
    assert [Path("joined", name).read_bytes() == Path("plain", name).read_bytes() for name in OUTPUTS] == [True] * 4
    assert sorted(os.listdir("joined")) == sorted(OUTPUTS)
    records = [json.loads(line) for line in lines(Path("plain/detections.jsonl"))]
    objects = Counter(one["class"] for record in records for one in record.get("detections", ()))
    table = dict(line.split() for line in done.stdout.splitlines())
    assert table == {"class": "objects"} | {name: str(count) for name, count in objects.items()}
    before = Path("joined/detections.jsonl").read_bytes()
    again = detect("corpus", "--ray", "local", "--out", "joined", "--to", "coco,csv", "--resume", "--json")
    assert again.exit_code == 3
    assert json.loads(again.stdout) == {
        "version": 2,
        "model": {"file": "m.onnx", "engine": "onnxruntime", "class_names": ["red", "blue"]},
        "pictures": PHOTOS - len(BAD) + 12,
        "objects": dict(objects.most_common()),
        "errors": len(BAD),
        "records": "joined/detections.jsonl",
    }
    assert Path("joined/detections.jsonl").read_bytes() == before


def test_parquet_has_the_same_rows_and_resumes_what_is_missing(cluster: None) -> None:
    import pyarrow.parquet as parquet

    arguments = ("corpus", "--ray", "local", "--ray-format", "parquet", "--out", "rows")
    assert detect(*arguments).exit_code == 3
    parts = sorted(Path("rows/detections.parquet").glob("*.parquet"))
    assert [part.name for part in parts] == [f"part-{number:06d}.parquet" for number in range(5)]
    again = detect(*arguments)
    assert again.exit_code == 2
    assert "go on with it with --resume, or give another --out" in again.stderr
    kept = {part: part.stat().st_ino for part in parts}
    for number in (1, 3):
        parts[number].unlink()
        del kept[parts[number]]
    resumed = detect(*arguments, "--resume")
    assert resumed.exit_code == 3
    assert "3 of 5 parts are done" in resumed.stderr
    assert {part: part.stat().st_ino for part in kept} == kept  # not written again
    rows = parquet.read_table("rows/detections.parquet").to_pylist()
    expected = [json.loads(line) for line in lines(Path("plain/detections.jsonl"))]
    without_none = [[{k: v for k, v in row.items() if v is not None} for row in some] for some in (rows, expected)]
    for row in without_none[0]:
        for one in row.get("detections", ()):
            assert one.pop("points") is None
    assert without_none[0] == without_none[1]


def test_a_worker_that_dies_is_replaced(cluster: None, photo_server: tuple[str, list[Asked]]) -> None:
    server, actions = photo_server
    source = listed(server, 70, "one-death.txt")
    assert detect(str(source), "--out", "no-death", "--to", "csv").exit_code == 3
    dead: list[int] = []

    def kill(request: BaseHTTPRequestHandler) -> None:
        dead.append(client_of(request))
        os.kill(dead[0], signal.SIGKILL)

    actions.append(kill)
    done = detect(str(source), "--ray", "local", "--out", "one-death")
    assert done.exit_code == 3, done.stderr
    assert dead
    assert dead != [os.getpid()]
    assert same_records("one-death", "no-death")
    assert os.listdir("one-death") == ["detections.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=lambda blow: blow.name)
def test_a_run_that_is_broken_off_resumes(
    blow: signal.Signals, cluster: None, photo_server: tuple[str, list[Asked]]
) -> None:
    """In a process and a Ray of its own, at a moment chosen by chance."""
    server, actions = photo_server
    source = listed(server, random.SystemRandom().randrange(PHOTOS), f"{blow.name}.txt")
    assert detect(str(source), "--out", f"{blow.name}-plain", "--to", "csv").exit_code == 3
    reached, struck = threading.Event(), threading.Event()

    def wait(_: BaseHTTPRequestHandler) -> None:
        reached.set()
        struck.wait(60)

    actions.append(wait)
    command = [sys.executable, "-m", "detkit", "detect", str(source), "--weights", "m.onnx", "--backend", "onnxruntime"]
    process = subprocess.Popen(
        [*command, "--ray", "local", "--out", blow.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    assert reached.wait(300)
    os.killpg(process.pid, blow)
    printed, said = process.communicate(timeout=120)
    struck.set()
    assert printed == ""
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert [line for line in said.splitlines() if line and "warning" not in line] == ["detkit: interrupted"]
        assert not list(Path(blow.name).rglob(".*.part*"))
    whole = list(Path(blow.name, "parts").glob("part-*"))
    resumed = detect(str(source), "--ray", "local", "--out", blow.name, "--resume")
    assert resumed.exit_code == 3
    assert f"{len(whole)} of 5 parts are done" in resumed.stderr or not whole
    assert same_records(blow.name, f"{blow.name}-plain")
    assert os.listdir(blow.name) == ["detections.jsonl"]


def test_strict_stops_at_the_first_that_cannot_be_read(cluster: None) -> None:
    broken = detect("corpus", "--ray", "local", "--strict", "--out", "strict")
    assert broken.exit_code == 3
    assert any(f"corpus/{number}.png" in broken.stderr.splitlines()[-1] for number in BAD)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--show"], "not done with --ray; found --show"),
        (["--jsonl", "-"], "not done with --ray; found --jsonl"),
        (["--shard", "1/2"], "not done with --ray; found --shard"),
        (["--track"], "not done with --ray; found --track"),
        (["--to", "coco,crops"], "not done with --ray; found --to coco,crops"),
        (["--to", "csv", "--ray-format", "parquet"], "--to is made from --ray-format jsonl"),
        (["cam0"], "a live stream cannot be split among machines"),
    ],
)
def test_what_is_not_done_on_a_cluster(arguments: list[str], said: str) -> None:
    pytest.importorskip("ray", reason="Ray comes with the ray extra")
    done = detect("corpus", *arguments, "--ray", "local", "--out", "refused")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not Path("refused").exists()


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="Ray comes with the ray extra")

    def times_out(*_: Any, **__: Any) -> None:
        os.write(2, b"chatter")
        raise Exception("The current node timed out during startup.\nMore of it.")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", times_out)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    done = detect("corpus/0.png", "--ray", "local", "--out", "not-started")
    assert done.exit_code == 6
    assert done.stderr.splitlines() == [
        "detkit: error: local: no Ray could be started; found The current node timed out during startup."
    ]


def test_ray_format_without_ray() -> None:
    assert "--ray-format says what --ray writes" in detect("corpus", "--ray-format", "parquet").stderr


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = detect("corpus", "--ray", "local", "--out", "refused")
    assert done.exit_code == 5
    assert 'pip install "detkit-cv[ray]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("nonsense", 2, "expected local, auto or HOST:PORT"),
        ("ray://127.0.0.1:10001", 2, "expected local, auto or HOST:PORT"),
        ("127.0.0.1:99999", 2, "expected local, auto or HOST:PORT"),
        ("127.0.0.1:{closed}", 6, "no Ray cluster answers; found Connection refused"),
        ("127.0.0.1:{silent}", 6, "no Ray cluster"),  # "is", or "... answers": it may hang up before the question
    ],
)
def test_an_address_without_ray_is_one_line(
    address: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray comes with the ray extra")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {"closed": closed.getsockname()[1], "silent": silent.getsockname()[1]}
        closed.close()
        hang_up = threading.Thread(target=lambda: silent.accept()[0].close(), daemon=True)
        hang_up.start()
        done = detect("corpus/0.png", "--ray", address.format(**ports), "--out", "nowhere")
    assert done.exit_code == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
