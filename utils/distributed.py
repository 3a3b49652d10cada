"""One process or several: torchrun starts them and names them in the environment."""

import gc
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from utils.flags import first_line, stop

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

    @contextmanager
    def joined(self, device: str) -> Iterator[None]:
        """Inside it the processes form a group, which errors after TIMEOUT.

        One that fails ends at once, and torchrun ends the others: NCCL cannot leave a group whose sums still wait.
        """
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if self.world == 1:
            yield
            return
        try:
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            sys.exit(f"error: rank {self.rank} of {self.world} did not meet the others: {first_line(error)}")
        except KeyboardInterrupt:
            stop("nothing was begun")
        try:
            yield
        except BaseException as error:
            end_at_once(error)
        gc.collect()  # what still refers to the group would keep its threads
        dist.destroy_process_group()

    def meet(self) -> None:
        """Waits for all ranks, after the last thing that they do together.

        One that ended at once could find Python gone while a thread of gloo's still frees the last sum's tensor, and
        abort: "terminate called without an active exception".
        """
        if self.world > 1:
            dist.barrier()

    @torch.no_grad()
    def follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives all ranks the first one's values, in place.

        Unlike processors round unlike, and what an optimiser makes of that (eigenbases, signs) grows apart.
        """
        if self.world == 1 or not (tensors := list(tensors)):  # in this order: a walk at every step is slow
            return
        values = torch.cat([tensor.flatten() for tensor in tensors])
        dist.broadcast(values, 0)
        for tensor, part in zip(tensors, values.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))

    def share(self, items: Sequence) -> Sequence:
        """Every world-th item; the ranks' shares are all of them, once."""
        return items[self.rank :: self.world]

    def sum(self, values: Sequence[float], device: str) -> list[float]:
        """Adds up each value over the ranks, in float64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()


def end_at_once(error: BaseException) -> NoReturn:
    """Ends this process as `error` would, without the clean-up of what is open."""
    is_exit = isinstance(error, SystemExit)
    code = error.code if is_exit and isinstance(error.code, int) else 1
    try:
        if not is_exit:
            traceback.print_exception(error)
        elif isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
    finally:
        os._exit(code)  # though stdout be a full disk or a closed pipe
