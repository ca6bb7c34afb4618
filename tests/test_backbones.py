"""Backbones: every name gives maps at strides 8, 16 and 32, and the ImageNet weights really are in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import timm  # noqa: E402

from detkit.errors import UsageError  # noqa: E402
from detkit.images import read_image  # noqa: E402
from detkit.models.backbones import backbone_names, build_backbone, imagenet_weights_path  # noqa: E402

PHOTOS = Path(__file__).parent / "data" / "photos"
NAMES = [
    "efficientnet_lite0",
    "lenet5",
    "alexnet",
    "vgg16",
    "resnet18",
    "resnet50",
    "googlenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
]


def test_the_promised_names_are_there() -> None:
    assert set(NAMES) <= set(backbone_names())


@pytest.mark.parametrize("name", NAMES)
def test_maps_at_strides_8_16_32_of_a_canvas_that_is_not_square(name: str) -> None:
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.randint(0, 256, (1, 64, 160, 3), dtype=torch.uint8))
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 20), (4, 10), (2, 5)]
    assert tuple(m.shape[1] for m in maps) == backbone.channels


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        build_backbone("resnet-18")


def test_no_imagenet_weights_for_this_one() -> None:
    with pytest.raises(UsageError, match="no ImageNet weights"):
        build_backbone("vgg16", pretrained=True)


def test_pretrained_backbone_equals_the_classifier_it_was_cut_from() -> None:
    """Our constant padding and the stage cuts change nothing: same features as timm's own network, which sees a cat."""
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(imagenet_weights_path(), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), source.values(), strict=True)))
    ours = build_backbone("efficientnet_lite0", pretrained=True).eval()
    image = read_image(PHOTOS / "chelsea.jpg")
    side = min(image.shape[:2]) // 32 * 32
    left = (image.shape[1] - side) // 2
    crop = torch.from_numpy(np.ascontiguousarray(image[None, :side, left : left + side]))
    with torch.no_grad():
        scaled = (crop.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        reference = whole.blocks(whole.bn1(whole.conv_stem(scaled)))
        assert torch.allclose(ours(crop)[-1], reference, atol=1e-4)
        best = whole(scaled).argmax().item()
    assert 281 <= best <= 287  # ImageNet's cats
