"""Memory of a training step: how much there is, and how much one takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_PASSING = 1.7  # peak of a step by what it saves: gradients and work space; 1.2 to 1.6 measured on 320 px
_COPIES = 4  # weights, their gradients and the optimiser's two moments


def available_bytes(root: Path = Path("/")) -> int | None:
    """Main memory this process may still take: what Linux calls available, within the limit of its control group.

    Args:
        root: of the file system.
    Returns:
        Bytes, or None where the system does not say.
    """
    lines = [line.split() for line in _read(root / "proc/meminfo").splitlines()]
    found = [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    group = root / "sys/fs/cgroup"
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if limit.isdigit() and used.isdigit():  # "max" is no limit
        found.append(max(0, int(limit) - int(used)))
    return min(found) if found else None


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Estimated peak memory of a training step on a CPU: so much, and so much more for each canvas."""

    fixed_bytes: int
    canvas_bytes: int

    def of(self, batch_size: int) -> int:
        """Bytes of a step on so many canvases."""
        return self.fixed_bytes + batch_size * self.canvas_bytes


def measure_step(model: nn.Module, forward: Callable[[], Tensor], batch_size: int) -> StepMemory:
    """Estimate the memory of a training step from a forward pass.

    The pass saves what the backward pass needs; more comes and goes, in proportion; and there are the copies of the
    weights.

    Args:
        model: the network.
        forward: computes the loss of `batch_size` canvases.
        batch_size: how many; a batch norm needs two.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # kept alive, so that no two of them share an address

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()  # held, or what it saved would be gone
    grows = sum(tensor.untyped_storage().nbytes() for at, tensor in saved.items() if at not in own)
    del loss
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return StepMemory(_COPIES * weights, round(_PASSING * grows / batch_size))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
