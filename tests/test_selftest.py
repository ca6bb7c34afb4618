"""The trials before the first epoch: they find what is broken, and leave no trace in the run."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from detkit.detections import Detections  # noqa: E402
from detkit.errors import RunError  # noqa: E402
from detkit.export import Proof  # noqa: E402
from detkit.models.build import build  # noqa: E402
from detkit.models.landmarks import LandmarkSettings  # noqa: E402
from detkit.models.yolo import Yolo, YoloSettings  # noqa: E402
from detkit.train import batch_size  # noqa: E402
from detkit.train.batch_size import choose_fastest, choose_largest, largest_batch  # noqa: E402
from detkit.train.memory import StepMemory, available_bytes, measure_step  # noqa: E402
from detkit.train.selftest import export_round_trip, loss_falls  # noqa: E402
from detkit.weights import ModelCard  # noqa: E402

SIDE = 64
SETTINGS = YoloSettings("lenet5", pretrained=False, width=16, anchors_per_scale=1)
CARD = ModelCard(
    "yolo",
    {"backbone": "lenet5", "width": 16, "anchors_per_scale": 1},
    ("red", "blue"),
    (SIDE, SIDE),
    anchors_wh_px=(((12.0, 12.0),), ((24.0, 24.0),), ((48.0, 48.0),)),
)


@pytest.fixture
def model() -> Yolo:
    torch.manual_seed(0)
    return build(CARD, SETTINGS).train()


def batch(count: int = 4) -> tuple[torch.Tensor, list[Detections]]:
    """Canvases of noise with one coloured box each; the first has none."""
    rng = np.random.default_rng(0)
    canvases = rng.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    truths = [Detections((SIDE, SIDE), np.zeros((0, 4)), np.zeros(0))]
    for i in range(1, count):
        canvases[i, 16:40, 8:40] = (230, 20, 20) if i % 2 else (20, 20, 230)
        truths.append(Detections((SIDE, SIDE), np.array([[8.0, 16, 40, 40]]), np.array([1 - i % 2])))
    return torch.from_numpy(canvases), truths


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_of_a_sound_network_falls(model: Yolo, precision: str) -> None:
    fall = loss_falls(model, *batch(), precision=precision)
    assert fall.after < fall.before
    assert 1 <= fall.steps <= 40


def test_a_loss_that_rises_is_found(model: Yolo, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Yolo.loss
    monkeypatch.setattr(Yolo, "loss", lambda *a: {k: 1 / (v + 0.1) for k, v in right(*a).items()})  # gradient reversed
    sound = loss_falls(model, *batch())
    assert sound.after < sound.before  # whatever is minimised falls
    monkeypatch.setattr(Yolo, "loss", lambda *a: {k: 2 * v.detach() - v for k, v in right(*a).items()})
    with pytest.raises(RunError, match="the loss on one batch does not fall") as caught:
        loss_falls(model, *batch(), steps=5)
    assert "expected below" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_that_stays_and_one_that_breaks_are_found(model: Yolo, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Yolo.loss
    monkeypatch.setattr(Yolo, "loss", lambda *a: {k: v * 0 + 3 for k, v in right(*a).items()})
    with pytest.raises(RunError, match="found 9 9 9 9 after 8 steps"):
        loss_falls(model, *batch(), steps=2)
    monkeypatch.setattr(Yolo, "loss", lambda *a: {k: v * float("inf") for k, v in right(*a).items()})
    with pytest.raises(RunError, match="not finite; the weights or the labels are broken"):
        loss_falls(model, *batch())
    with pytest.raises(RunError, match="precision=fp32"):
        loss_falls(model, *batch(), precision="bf16")


def test_a_frozen_network_cannot_learn(model: Yolo) -> None:
    model.requires_grad_(False)
    with pytest.raises(RunError, match="every weight is frozen"):
        loss_falls(model, *batch())


def test_a_network_of_points_learns_and_is_exported() -> None:
    card = ModelCard("landmarks", {"backbone": "lenet5", "width": 16}, ("face",), (SIDE, SIDE), point_names=("a", "b"))
    torch.manual_seed(0)
    model = build(card, LandmarkSettings("lenet5", pretrained=False, width=16))
    points = np.array([[[10.0, 20, 2], [40, 30, 2]]])
    truths = [Detections((SIDE, SIDE), np.array([[0.0, 0, SIDE, SIDE]]), np.zeros(1), points_xyv=points)] * 4
    fall = loss_falls(model, batch()[0], truths)
    assert fall.after < fall.before
    assert export_round_trip(model, card).box_px < 0.1
    assert largest_batch(model, batch()[0], truths, most=8).batch_size == 8


def test_a_batch_without_objects(model: Yolo) -> None:
    canvases, truths = batch(12)
    empty = [truths[0]] * 12
    assert loss_falls(model, canvases, empty).after > 0


def test_trials_leave_weights_modes_gradients_and_random_numbers_as_they_were(model: Yolo) -> None:
    class Noisy(Yolo):
        """Draws random numbers as it goes, as dropout does."""

        def forward(self, images: torch.Tensor) -> object:
            random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
            return super().forward(images)

    model.__class__ = Noisy
    frozen = model.backbone.get_submodule("stages.0")
    frozen.requires_grad_(False)
    frozen.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    torch.stack(list(model.loss(model(batch()[0]), batch()[1]).values())).sum().backward()

    def state() -> list[object]:
        tensors = [t.clone() for t in model.state_dict().values()]
        tensors += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        generators = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()]  # noqa: NPY002
        modes = [m.training for m in model.modules()] + [p.requires_grad for p in model.parameters()]
        return [*tensors, *generators, modes, optimizer.state_dict()["state"]]

    before = state()
    loss_falls(model, *batch())
    export_round_trip(model, CARD)
    largest_batch(model, *batch(), most=4)
    after = state()
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new


def test_frozen_batch_norms_keep_their_statistics_in_the_copy(model: Yolo) -> None:
    from detkit.train.selftest import Trial

    stem = model.backbone.get_submodule("stages.1")
    stem.requires_grad_(False)
    trial = Trial(model, "fp32", 1e-3)
    trial.step(*batch())
    norms = [m for m in trial.twin.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = {id(m) for m in trial.twin.backbone.get_submodule("stages.1").modules()}
    assert all((int(m.num_batches_tracked) == 0) == (id(m) in kept) for m in norms)


def test_the_export_is_proven_and_nothing_is_left(model: Yolo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    proof = export_round_trip(model, CARD)
    assert isinstance(proof, Proof)
    assert 0 <= proof.box_px < 0.1
    assert list(tmp_path.iterdir()) == []
    right = Yolo.decode

    def unknown(*_: object) -> object:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(Yolo, "decode", unknown)
    with pytest.raises(RunError, match="cannot be exported to ONNX: no such operator"):
        export_round_trip(model, CARD)
    monkeypatch.setattr(Yolo, "decode", right)
    assert list(tmp_path.iterdir()) == []


def test_the_fastest_batch_on_a_cpu() -> None:
    tried: list[int] = []

    def at(speeds: dict[int, float], fitting: list[int], most: int = 64) -> tuple[int, str]:
        tried.clear()

        def step_s(n: int) -> float:
            tried.append(n)
            return n / speeds[n]

        choice = choose_fastest(fitting, most, step_s)
        assert choice.images_per_s == pytest.approx({n: speeds[n] for n in tried})
        return choice.batch_size, choice.reason

    sizes = [2, 4, 8, 16, 32, 64]
    assert at({8: 10, 16: 12, 32: 9}, sizes) == (16, "larger ones are not faster")
    assert tried == [8, 16, 32]  # 64 would only cost time
    assert at({8: 10, 16: 10.2}, sizes) == (8, "larger ones are not faster")  # within the noise
    assert at({8: 10, 16: 11, 32: 12, 64: 13}, sizes) == (64, "the largest allowed")
    assert at({8: 10, 16: 11}, [2, 4, 8, 16]) == (16, "the largest that fits into memory")
    assert at({8: 1, 16: 1.5}, sizes) == (8, "larger ones take too long to try")
    assert tried == [8]  # 24 s are spent, 16 would take 48
    assert at({4: 1}, [2, 4]) == (4, "the largest that fits into memory")
    assert at({8: 10}, [2, 4, 8], most=13) == (8, "the largest allowed")


def test_the_largest_batch_on_a_gpu() -> None:
    def below(limit: int, most: int = 256) -> tuple[int, list[int], str] | None:
        choice = choose_largest(most, lambda n: n / 100 if n <= limit else None)
        return None if choice is None else (choice.batch_size, list(choice.images_per_s), choice.reason)

    assert below(100) == (64, [16, 32, 64], "the largest that fits into memory")
    assert below(1000) == (256, [16, 32, 64, 128, 256], "the largest allowed")
    assert below(5) == (4, [4], "the largest that fits into memory")
    assert below(1000, most=12) == (8, [8], "the largest allowed")
    assert below(1) is None


def test_a_gpu_that_runs_out_of_memory_is_a_batch_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        """What the search asks of torch.cuda, for a GPU of 100 bytes."""

        def __init__(self) -> None:
            self.taken = 0

        def step(self, n: int) -> float:
            if n > 100:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.taken = n
            return 1.0

    gpu = Gpu()
    monkeypatch.setattr(batch_size, "_step_s", lambda _trial, canvases, _truths: gpu.step(len(canvases)))
    for name, fake in {
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda _: None,
        "mem_get_info": lambda _: (100, 100),
        "memory_reserved": lambda _: 0,
        "max_memory_reserved": lambda _: gpu.taken,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)

    class FakeTrial:
        device = torch.device("cpu")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])

    def fits(n: int) -> bool:
        return batch_size._gpu_step_s(FakeTrial(), torch.zeros(n), []) is not None  # type: ignore[arg-type]

    assert [fits(n) for n in (90, 91, 101)] == [True, False, False]


def test_largest_batch_of_a_real_network(model: Yolo, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = largest_batch(model, *batch(), most=8)
    assert choice.batch_size == 8
    assert choice.images_per_s[8] > 0
    assert largest_batch(model, *batch(), most=1).batch_size == 1
    canvases, truths = batch()
    need = batch_size._fitting(batch_size.Trial(model, "fp32", 1e-6), canvases, truths, 4, 0)
    assert need == [2, 4]
    monkeypatch.setattr(batch_size, "available_bytes", lambda: 2**20)
    with pytest.raises(RunError, match=r"not even a step on 2 canvases of 64 px fits.*--size; found 1 MiB to spare"):
        largest_batch(model, canvases, truths)
    monkeypatch.setattr(batch_size, "available_bytes", lambda: 2**40)
    with pytest.raises(RunError, match="found 0 MiB to spare"):
        largest_batch(model, canvases, truths, reserved_bytes=2**40)


def test_the_memory_of_a_step_is_what_it_saves() -> None:
    """Two convolutions without bias: the input and the first's output are saved, the weights are not counted twice."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 5, 1, bias=False))
    images = torch.zeros(2, 3, 10, 10)
    memory = measure_step(net, lambda: net(images).sum(), 2)
    weights = (3 * 4 + 4 * 5) * 4
    saved = (3 + 4) * 10 * 10 * 4  # bytes a canvas
    assert memory == StepMemory(4 * weights, round(1.7 * saved))
    assert memory.of(3) == 4 * weights + 3 * round(1.7 * saved)


def test_available_memory_respects_the_control_group(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemAvailable:  500 kB\nHugePages_Total: 0\n\n")
    assert available_bytes(tmp_path) == 500 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("100000\n")
    (group / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 500 * 1024
    (group / "memory.max").write_text("300000\n")
    assert available_bytes(tmp_path) == 200_000
