"""A training step of the default network, against itself: bf16 and the frozen stem, and whether the loader keeps up."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detkit.allocator import keep_freed_blocks
from detkit.data.dataset import Dataset, Sample
from detkit.detections import Detections
from detkit.images import write_image
from detkit.models.depthwise import DepthwiseConv2d
from detkit.models.yolo import Yolo, YoloSettings
from detkit.train.augment import AugmentSettings
from detkit.train.loader import EpochPlan, PhotoCache, PhotoCanvases, batches
from detkit.train.optim import OptimSettings, build_optimizer, freeze_stages

BATCH, SIDE, STEPS = 16, 320, 3
ANCHORS = [[[8.0, 10], [15, 21], [44, 28]], [[24, 58], [56, 108], [102, 60]], [[125, 173], [216, 106], [264, 190]]]


def step_ms(*, bf16: bool, frozen: bool = False, plain: bool = False) -> float:
    """Milliseconds per image of the fastest of a few steps."""
    torch.manual_seed(0)
    model = Yolo(YoloSettings(pretrained=False), tuple("abcde"), ANCHORS).to(memory_format=torch.channels_last)
    if frozen:
        freeze_stages(model.backbone, 1)
    if plain:
        for module in model.modules():
            if isinstance(module, DepthwiseConv2d):
                module.__class__ = nn.Conv2d
    optimizer = build_optimizer(model, OptimSettings(), model.backbone, 1.0)
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8)
    truth = Detections((SIDE, SIDE), np.array([[20.0, 30, 90, 200], [150, 40, 300, 120]]), np.array([0, 3]))
    seconds = []
    for _ in range(STEPS + 1):
        start_s = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            raw = model(images)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(model.loss(raw, [truth] * BATCH).values())).sum().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start_s)
    return 1000 * min(seconds[1:]) / BATCH


def loader_ms() -> float:
    """Milliseconds per canvas of the loader alone, photos of 416 x 312 in its cache, mosaics as by default."""
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        write_image(photo, np.random.default_rng(0).integers(0, 256, (312, 416, 3), dtype=np.uint8))
        truth = Detections((312, 416), np.array([[20.0, 30, 90, 200]]), np.array([0]))
        samples = tuple(Sample(f"{i}.jpg", photo, truth, i + 1) for i in range(160))
        photos = PhotoCache(Dataset("noise", ("a",), samples, photo, "coco", "train", (1,)), 480, 2**30)
        canvases, order = PhotoCanvases(photos, AugmentSettings()), np.arange(len(photos))
        plan = EpochPlan(seed=0, epoch=0, batch_size=BATCH, sides_px=(SIDE,), closed=False, order=order)
        for epoch in range(2):  # the first fills the cache
            start_s = time.perf_counter()
            count = sum(len(truths) for _, truths in batches(canvases, replace(plan, epoch=epoch)))
        return 1000 * (time.perf_counter() - start_s) / count


def main() -> None:
    plain, trimmed = step_ms(bf16=True, plain=True), step_ms(bf16=True)
    keep_freed_blocks()  # from here on, as in a run
    fp32, bf16 = step_ms(bf16=False), step_ms(bf16=True)
    frozen, loader = step_ms(bf16=True, frozen=True), loader_ms()
    print(f"training step, efficientnet_lite0 at {SIDE} px, batch {BATCH}, {torch.get_num_threads()} threads, ms/image")
    print(f"  bf16, PyTorch's own      {plain:6.1f}   its depthwise gradients, memory handed back after each step")
    print(f"  bf16, quick gradients    {trimmed:6.1f}   {plain / trimmed:.2f} times as fast")
    print(f"  the same, memory kept    {bf16:6.1f}   {plain / bf16:.2f} times as fast: what a run does")
    print(f"  fp32                     {fp32:6.1f}")
    print(f"  bf16, stem frozen        {frozen:6.1f}   {plain / frozen:.2f} times as fast as the first (the default)")
    print(f"  loader alone             {loader:6.1f}   {frozen / loader:.1f} times as fast as the step it feeds")


if __name__ == "__main__":
    main()
