"""The training step as one CUDA graph, which the host launches with a single call.

Without a graph, the host needs several times as long to launch the hundreds of kernels as a large GPU to run them.
https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stages.simclr.distributed import world_size
from stages.simclr.training import Metrics, TrainingStep

WARM_UP_STEPS = 3  # they create the optimizer's state and the libraries' handles and plans


def graphed_on_gpu(step: TrainingStep) -> Callable[[Tensor], Metrics]:
    """The step as a graph if one process trains on a GPU, otherwise the step itself.

    The exchanges between several processes were not tried in a graph.
    """
    return GraphedStep(step) if step.rng.device.type == "cuda" and world_size() == 1 else step


class GraphedStep:
    """Gives the bytes of the step with a learning rate in float32: the first calls run it, then it is replayed.

    All calls need images of the same shape. The step's generator may be seeded again between calls. Its optimizer must
    be a fused one with a single group of parameters, whose learning rate may change.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.calls = 0
        # PyTorch requires warm-up and capture on the same non-default stream.
        self.stream = torch.cuda.Stream(step.rng.device)
        self.lr = torch.zeros((), device=step.rng.device)

    def __call__(self, images: Tensor) -> Metrics:
        """images: (V, H, W, 3) uint8 on the GPU."""
        self.lr.fill_(self.step.optimizer.param_groups[0]["lr"])
        self.calls += 1
        if self.calls <= WARM_UP_STEPS:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream), self._optimizer_settings(lr=self.lr):
                metrics = self.step(images)
            torch.cuda.current_stream().wait_stream(self.stream)
            return metrics
        if self.calls == WARM_UP_STEPS + 1:
            self._record(images)
        self.images.copy_(images)
        self.graph.replay()
        # A copy, because the next replay overwrites the values.
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _record(self, images: Tensor) -> None:
        self.images = images.clone()
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.step.rng)  # does nothing, with a warning, from PyTorch 2.14 on
        # Thread-local, because other threads read images and write checkpoints during the capture.
        capture = torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local")
        with self._optimizer_settings(lr=self.lr, capturable=True), capture:
            metrics = self.step(self.images)
            self.values = torch.stack(list(metrics.values()))
        self.names = list(metrics)

    @contextmanager
    def _optimizer_settings(self, **settings: Any) -> Iterator[None]:
        """Changes settings for one step. A learning rate that is a Python number would be constant in the graph.

        It is not kept as a tensor, because loading a checkpoint would replace it, and the schedule would use float32.
        """
        group = self.step.optimizer.param_groups[0]
        usual = {name: group[name] for name in settings}
        group.update(settings)
        try:
            yield
        finally:
            group.update(usual)
