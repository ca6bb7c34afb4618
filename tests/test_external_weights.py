"""`detkit import torchvision`: state dicts are read, anything else is refused before it can do something."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from detkit.cli.import_torchvision import torchvision as import_command  # noqa: E402
from detkit.coco_names import COCO_NAMES  # noqa: E402
from detkit.errors import UsageError, WeightsError  # noqa: E402
from detkit.infer.predictor import Predictor  # noqa: E402
from detkit.models import external_weights  # noqa: E402
from detkit.models.checkpoint import load_model  # noqa: E402
from detkit.models.external import KINDS, detector  # noqa: E402
from detkit.models.external_weights import import_torchvision, is_published, read_state  # noqa: E402
from detkit.models.pickle_scan import check_torch_file  # noqa: E402
from detkit.weights import read_card  # noqa: E402
from tests.external_world import scenes  # noqa: E402

LITE = "ssdlite320_mobilenet_v3_large"


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """coco.pth and own.pth of random networks; old.pth, as PyTorch before 1.6 wrote them."""
    folder = tmp_path_factory.mktemp("torchvision")
    torch.manual_seed(0)
    coco = detector(LITE, 91).state_dict()
    torch.save(coco, folder / "coco.pth")
    torch.save(coco, folder / "old.pth", _use_new_zipfile_serialization=False)
    own = {f"module.{key}": tensor for key, tensor in detector(LITE, 4).state_dict().items()}
    torch.save({"model": own, "epoch": 3}, folder / "own.pth")
    (folder / "names.txt").write_text("a\nb\n\nc\n")
    return folder


@pytest.mark.parametrize("file", ["coco.pth", "old.pth"])
def test_a_coco_file_keeps_its_91_outputs_and_names_80(folder: Path, file: str) -> None:
    network, card = import_torchvision(folder / file, LITE, licence="BSD-3-Clause")
    assert card.class_names == COCO_NAMES
    assert card.architecture == {"name": LITE, "layout": "coco91"}
    assert (card.input_hw, card.fit, card.thresholds["iou"]) == ((320, 320), "stretch", 0.55)
    assert card.licences["weights"] == "BSD-3-Clause"
    assert card.training["weights_sha256"] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
    saved = torch.load(folder / file, weights_only=True)
    assert all(torch.equal(tensor, saved[key]) for key, tensor in network.detector.state_dict().items())


def test_a_checkpoint_of_ones_own_needs_names(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"knows 3 classes; name them; expected --names FILE"):
        import_torchvision(folder / "own.pth", LITE)
    with pytest.raises(UsageError, match=r"found 2 of them; expected 3"):
        import_torchvision(folder / "own.pth", LITE, ["a", "b"])
    network, card = import_torchvision(folder / "own.pth", LITE, ["a", "b", "c"], size_px=160)
    assert card.architecture["layout"] == "plain"
    assert card.input_hw == (160, 160)
    assert network.columns.tolist() == [1, 2, 3]


def test_the_command_writes_both_kinds(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(import_command)
    words = [str(folder / "own.pth"), "--model", LITE, "--names", str(folder / "names.txt"), "--size", "96"]
    for name in ("out.onnx", "out.safetensors"):
        done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / name), "--json"], catch_exceptions=False)
        assert done.exit_code == 0
        facts = json.loads(done.stdout)
        assert facts["classes"] == ["a", "b", "c"]
        assert (facts["proof"] is None) == name.endswith("safetensors")
        assert read_card(tmp_path / name).licences["weights"] == "unspecified"
    load_model(tmp_path / "out.safetensors")
    found = Predictor(tmp_path / "out.onnx", conf=0.0).predict(scenes(1, (50, 70))[0].numpy())
    assert len(found) > 0


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected the state dict of a fcos_resnet50_fpn"):
        import_torchvision(folder / "coco.pth", "fcos_resnet50_fpn")
    with pytest.raises(UsageError, match="did you mean 'fcos_resnet50_fpn'"):
        import_torchvision(folder / "coco.pth", "fcos_resnet50")
    state = torch.load(folder / "coco.pth", weights_only=True)
    key = "head.regression_head.module_list.5.1.bias"
    for change, problem in (
        ({key: torch.zeros(7)}, rf"tensor {key} has another shape; found \(7,\); expected \(24,\)"),
        ({"surplus": torch.zeros(1)}, "holds an unknown tensor surplus"),
        ({key: None}, f"lacks the tensor {key}"),
    ):
        changed = {name: tensor for name, tensor in (state | change).items() if tensor is not None}
        torch.save(changed, tmp_path / "changed.pth")
        with pytest.raises(WeightsError, match=problem):
            import_torchvision(tmp_path / "changed.pth", LITE)
    torch.save({"a": 3}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="is no state dict"):
        read_state(tmp_path / "numbers.pth")


def test_a_published_file_is_known_by_its_hash_and_loses_the_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_published("fcos_resnet50_fpn", "99b0c9b7" + "0" * 56)
    assert not is_published("fcos_resnet50_fpn", "99b0c9b8" + "0" * 56)
    assert [name for name, kind in KINDS.items() if kind.zero_eps] == [
        "retinanet_resnet50_fpn",
        "fasterrcnn_resnet50_fpn",
        "keypointrcnn_resnet50_fpn",
    ]
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"  # the smallest with the same kind of batch norm
    state = {k: v for k, v in detector(name, 91).state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "published.pth")
    monkeypatch.setitem(KINDS, name, KINDS[name]._replace(zero_eps=True))
    key = "backbone.body.0.1"
    plain, _ = import_torchvision(tmp_path / "published.pth", name)
    assert torch.equal(plain.detector.state_dict()[f"{key}.running_var"], state[f"{key}.running_var"])
    monkeypatch.setattr(external_weights, "is_published", lambda *_: True)
    published, card = import_torchvision(tmp_path / "published.pth", name)
    norm = published.detector.get_submodule(key)
    frozen = torch.ones(16) * 1.0  # torchvision's frozen norm: variance + 0
    assert torch.allclose(norm.running_var + norm.eps, frozen)
    assert card.architecture["layout"] == "coco91"


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, new_format: bool) -> None:
    target = tmp_path / "ran"
    torch.save({"a": Malicious(f"touch {target}")}, tmp_path / "bad.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="would run code, and is refused; found posix"):
        check_torch_file(tmp_path / "bad.pth")
    assert not target.exists()


def test_the_command_refuses_it_with_exit_4_before_pytorch_is_loaded(tmp_path: Path) -> None:
    torch.save({"a": Malicious(f"touch {tmp_path / 'ran'}")}, tmp_path / "bad.pth")
    program = (
        "import sys; sys.modules['torch'] = None; from detkit.cli import main; "
        f"sys.argv = ['detkit', 'import', 'torchvision', {str(tmp_path / 'bad.pth')!r}, '--model', '{LITE}', "
        f"'-o', {str(tmp_path / 'out.onnx')!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "would run code" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth"]


def test_damaged_files_are_refused(folder: Path, tmp_path: Path) -> None:
    for source in ("coco.pth", "old.pth"):
        data = (folder / source).read_bytes()
        for share in (0.001, 0.5, 0.99):
            (tmp_path / "cut.pth").write_bytes(data[: int(share * len(data))])
            with pytest.raises(WeightsError):
                check_torch_file(tmp_path / "cut.pth")
        (tmp_path / "cut.pth").write_bytes(data[:-1])
        with pytest.raises(WeightsError, match="damaged"):
            read_state(tmp_path / "cut.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="is no PyTorch file"):
        check_torch_file(tmp_path / "plain.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        check_torch_file(tmp_path / "none.pth")


def test_a_file_that_claims_more_than_it_holds_is_refused(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", b"0" * 10_000_000)
    with pytest.raises(WeightsError, match="no archive that torch"):
        check_torch_file(tmp_path / "bomb.pth")
    numbers = b"\x80\x02J\xff\xff\xff\x7f."  # 2**31 - 1
    legacy = (folder / "old.pth").read_bytes()
    with (folder / "old.pth").open("rb") as stream:
        for _ in range(3):
            for _ in pickletools.genops(stream):
                pass
        (tmp_path / "numbers.pth").write_bytes(legacy[: stream.tell()] + numbers)
    with pytest.raises(WeightsError, match="more numbers than it holds"):
        check_torch_file(tmp_path / "numbers.pth")


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), kept=st.floats(0.5, 1), old=st.booleans())
def test_flipped_bytes_are_read_or_refused(folder: Path, place: float, byte: int, kept: float, old: bool) -> None:
    path = folder / "flipped.pth"
    torch.save({"a.weight": torch.zeros(3, 2), "b": torch.ones(4)}, path, _use_new_zipfile_serialization=not old)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = byte
    path.write_bytes(data[: int(kept * len(data))] if kept < 0.6 else data)
    with contextlib.suppress(WeightsError):
        read_state(path)
