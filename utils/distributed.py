"""One process or several: torchrun starts them and names them in the environment."""

import gc
import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)  # a rank may wait as long for one that reads all photos from a slow disk


class Ranks:
    """This process among all of a job.

    Attributes:
        rank, world: its number and their count; 0 and 1 without torchrun.
        local, local_world: its number on this machine, which is its GPU's, and how many are here.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.local = int(os.environ.get("LOCAL_RANK", 0))
        self.local_world = int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def join(self, device: str) -> None:
        """Meets the other processes; errors after TIMEOUT."""
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)

    def meet(self) -> None:
        """Waits for all ranks, after the last thing that they do together.

        One that ended at once could find Python gone while a thread of gloo's still frees the last sum's tensor, and
        abort: "terminate called without an active exception".
        """
        if self.world > 1:
            dist.barrier()

    def leave(self) -> None:
        if dist.is_initialized():
            gc.collect()  # what still refers to the group would keep its threads
            dist.destroy_process_group()

    def share(self, indices: Sequence[int]) -> Sequence[int]:
        """Every world-th of the indices; the ranks' shares are all of them, once."""
        return indices[self.rank :: self.world]

    def sum(self, values: Sequence[float], device: str) -> list[float]:
        """Adds up each value over the ranks, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()
