"""Work that a GPU does alike at every step, launched at once instead of a kernel at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils.flags import first_line, warn
from utils.memory import is_memory_shortage

WARM_UP_CALLS = 3  # in which libraries choose their algorithms and allocate what they keep


class Replayed:
    """Runs `work` as it is three times, then records its kernels as a CUDA graph, and from then on replays that.

    A small network's training step is hundreds of kernels of a few microseconds, and launching them takes longer than
    running them. Where it cannot be recorded, a line says so and it runs as it is.

    Args:
        work: reads only what stays in the same memory, and waits for nothing that the GPU computes. What it returns,
            and every tensor that it makes and leaves behind, is overwritten by the next call.
    """

    can_record = True  # until one recording fails, after which PyTorch's allocator refuses others

    def __init__(self, work: Callable[[], Tensor | None]) -> None:
        self.work = work
        self.calls = 0
        self.stream: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: Tensor | None = None

    def __call__(self) -> Tensor | None:
        self.calls += 1
        if self.calls <= WARM_UP_CALLS:
            return self._warm_up()
        if self.calls == WARM_UP_CALLS + 1:
            self._record()
        if self.graph is None:
            return self.work()
        self.graph.replay()
        return self.result

    def _warm_up(self) -> Tensor | None:
        """On a stream of its own, as recording will be."""
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = self.work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def _record(self) -> None:
        if not Replayed.can_record:
            return
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # loader threads may allocate meanwhile
                self.result = self.work()
        except RuntimeError as error:
            if is_memory_shortage(error):
                raise
            torch.cuda.set_stream(stream)  # PyTorch stays on the recording's
            Replayed.can_record = False
            cause = first_line(error.__context__ or error)[:150]
            warn(f"no CUDA graph (--no-graph), which is slower: {cause}")
            return
        self.graph = graph


class ReplayedInPlace:
    """The same for work on tensors that may move: runs as it is wherever they lie elsewhere than when it was recorded.

    Args:
        addresses: of the tensors that may move.
    """

    def __init__(self, work: Callable[[], None], addresses: Callable[[], Sequence[int]]) -> None:
        self.work, self.addresses = work, addresses
        self.replayed = Replayed(work)
        self.last: Sequence[int] | None = None

    def __call__(self) -> None:
        now = self.addresses()
        run = self.replayed if now == self.last else self.work
        if self.replayed.graph is None:
            self.last = now
        run()
