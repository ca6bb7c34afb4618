"""Several processes training one network: who this one is, and the few words they exchange (torch.distributed)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detkit.errors import UsageError

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Team:
    """This process among those that train together; alone it is rank 0 of 1 and every exchange is immediate."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    def share_out(self, count: int) -> range:
        """The indices below `count` that are this process's part."""
        return range(self.rank, count, self.size)

    def from_leader(self, thing: Thing) -> Thing:
        """What rank 0 passed in, in every process."""
        if self.size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, device=_exchange_device())
        return box[0]

    def gathered(self, part: list[Thing], count: int) -> list[Thing]:
        """The whole list, in every process, from parts cut by `share_out(count)`."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        whole: list[Any] = [None] * count
        for rank, found in enumerate(parts):
            whole[rank :: self.size] = found
        return whole

    def any(self, here: bool) -> bool:
        """Whether it is true in at least one process."""
        if self.size == 1:
            return here
        flag = torch.tensor(int(here), device=_exchange_device())
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over the processes, which pass the same names."""
        if self.size == 1:
            return values
        summed = torch.tensor(list(values.values()), dtype=torch.float64, device=_exchange_device())
        dist.all_reduce(summed)
        return dict(zip(values, (summed / self.size).tolist(), strict=True))

    def spread(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite tensors by those of rank 0, in place."""
        if self.size > 1:
            for tensor in tensors.values():
                dist.broadcast(tensor, 0)


ALONE = Team()


def _exchange_device() -> torch.device:
    """Where small messages live: NCCL moves only what is on a GPU."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")


@contextmanager
def join_team() -> Iterator[Team]:
    """Join the processes `torchrun` started (NCCL on GPUs, else gloo), and leave them at the end; alone otherwise.

    Raises:
        UsageError: the environment names a team and lacks a part of it.
    """
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    try:
        team = Team(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
    except (KeyError, ValueError) as error:
        raise UsageError(f"WORLD_SIZE is set, but not as torchrun sets it: {error}") from error
    if torch.cuda.is_available():
        torch.cuda.set_device(team.local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield team
    finally:
        dist.destroy_process_group()
