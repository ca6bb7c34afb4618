"""Backbones without padding: what each cell sees, found from the layers, and equal to the padded network's cells."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from detkit.errors import UsageError  # noqa: E402
from detkit.models.backbones import backbone_names, build_backbone  # noqa: E402
from detkit.models.valid import SQUEEZING, VALID_STRIDES, Grid, ValidBackbone  # noqa: E402

CASES = [("lenet5", 8), ("alexnet", 8), ("efficientnet_lite0", 8), ("resnet18", 8), ("googlenet", 8)]


def canvas(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (1, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def lively(net: nn.Module) -> nn.Module:
    """Norms that differ from channel to channel, so that no layer is by chance an identity."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return net.eval()


def test_a_grid_counts_its_cells() -> None:
    grid = Grid(stride_px=8, field_px=52, offset_px=2)
    assert [grid.cells(side) for side in (0, 53, 54, 61, 62, 70)] == [0, 0, 1, 1, 2, 3]
    assert grid.spanning(3) == Grid(8, 68, 2)
    assert grid.spanning(1) == grid


def test_the_grid_of_lenet5_by_hand() -> None:
    # field: conv 5 -> 5, pool -> 6 (stride 2), conv 5 -> 6 + 4 * 2 = 14, pool -> 16 (stride 4), conv 5 -> 32,
    # pool -> 36 (stride 8), conv 3 -> 52. Offset: the padded network's first pooled cell that sees pixels alone starts
    # at 2, and the later layers skip whole cells: 2 + 0 px.
    assert ValidBackbone("lenet5", 4).grid == Grid(4, 32, 2)
    assert ValidBackbone("lenet5", 8).grid == Grid(8, 52, 2)


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_cells_are_those_of_the_padded_network_that_no_padding_has_touched(name: str, stride: int) -> None:
    torch.manual_seed(0)
    padded = lively(build_backbone(name))
    torch.manual_seed(0)
    valid = lively(ValidBackbone(name, stride))
    images = canvas(160, 192)
    with torch.inference_mode():
        found = valid(images)
        whole = (images.permute(0, 3, 1, 2).float() - padded.mean_rgb) / padded.std_rgb
        for stage in padded.stages[: VALID_STRIDES.index(stride) + 1]:
            whole = stage(whole)
    rows, columns = found.shape[2:]
    assert (rows, columns) == (valid.grid.cells(160), valid.grid.cells(192))
    gaps = [
        (whole[:, :, first : first + rows, first : first + columns] - found).abs().max().item()
        for first in range(whole.shape[2] - rows + 1)
    ]
    assert found.std() > 0
    assert min(gaps) <= 1e-4 * found.abs().max().item()
    assert sum(gap < 1e-3 * found.abs().max().item() for gap in gaps) == 1  # and no other part of it is the same


@pytest.mark.parametrize(("name", "stride"), CASES[:4])
def test_what_a_cell_sees_is_what_moves_it(name: str, stride: int) -> None:
    torch.manual_seed(0)
    valid = lively(ValidBackbone(name, stride))
    grid = valid.grid
    side = grid.offset_px + grid.field_px + 2 * stride + 3
    seen = torch.zeros(side, side)
    for seed in range(3):  # a maximum passes the gradient to one pixel of its window only
        x = (canvas(side, side, seed).permute(0, 3, 1, 2).float() - 128).div(64).requires_grad_()
        valid.layers(x)[0, :, 1, 2].sum().backward()
        assert x.grad is not None
        seen += x.grad[0].abs().sum(0)
    rows, columns = (torch.nonzero(seen.sum(axis) > 0).ravel() for axis in (1, 0))
    top, left = grid.offset_px + stride, grid.offset_px + 2 * stride
    assert (rows.min().item(), rows.max().item() + 1) == (top, top + grid.field_px)
    assert (columns.min().item(), columns.max().item() + 1) == (left, left + grid.field_px)


@pytest.mark.parametrize("name", SQUEEZING)
def test_a_backbone_that_looks_at_the_whole_picture_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        ValidBackbone(name, 8)
    assert "cannot slide" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(other in str(caught.value) for other in backbone_names() if other not in SQUEEZING)


def test_without_its_squeezing_layers_it_slides() -> None:
    assert ValidBackbone("mobilenet_v3_large", 4).grid == Grid(4, 19, 3)


def test_an_unknown_stride_or_name_is_one_line() -> None:
    with pytest.raises(UsageError, match="stride of a window model; found 6; expected 4 or 8 or 16 or 32"):
        ValidBackbone("lenet5", 6)
    with pytest.raises(UsageError, match="did you mean 'lenet5'"):
        ValidBackbone("lenet", 8)


def test_the_stages_and_the_names_of_the_tensors_are_the_backbones_own() -> None:
    valid, padded = ValidBackbone("efficientnet_lite0", 8), build_backbone("efficientnet_lite0")
    assert len(valid.stages) == 2
    ours = {name.removeprefix("layers.") for name in valid.state_dict()}
    theirs = {name for name in padded.state_dict() if name.startswith(("stages.0.", "stages.1."))}
    assert ours == theirs
