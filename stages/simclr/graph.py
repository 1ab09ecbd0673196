"""The training step as one CUDA graph, which the host starts with a single call.

One by one, the step's 480 kernels take the host several times as long to launch as a large GPU takes to run them.
https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stages.simclr.distributed import world_size
from stages.simclr.training import Metrics, TrainingStep

WARM_UP_STEPS = 3  # they make the optimizer's state, the libraries' handles and plans


def graphed_on_gpu(step: TrainingStep) -> Callable[[Tensor], Metrics]:
    """The step as a graph where one process trains on a GPU, elsewhere the step itself.

    Several processes exchange tensors within a step; whether that can be recorded was not tried.
    """
    return GraphedStep(step) if step.rng.device.type == "cuda" and world_size() == 1 else step


class GraphedStep:
    """Computes what the step does, in the same bytes: the first calls run it, then it is recorded and replayed.

    The images of all calls have one shape. The step draws from one generator, which may be seeded again between
    calls; its optimizer is a fused one with a single group of parameters, whose learning rate may change.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.calls = 0
        # PyTorch requires warm-up and capture on one stream, another than the default one.
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
        # A copy, because the next replay overwrites them.
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _record(self, images: Tensor) -> None:
        self.images = images.clone()
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.step.rng)
        # Other threads read images and write checkpoints meanwhile.
        capture = torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local")
        with self._optimizer_settings(lr=self.lr, capturable=True), capture:
            metrics = self.step(self.images)
            self.values = torch.stack(list(metrics.values()))
        self.names = list(metrics)

    @contextmanager
    def _optimizer_settings(self, **settings: Any) -> Iterator[None]:
        """Settings for one step alone. The learning rate as a number would stay in the graph as it was recorded.

        Kept as a tensor, it would be lost when a checkpoint is loaded, and the schedule would compute in float32.
        """
        group = self.step.optimizer.param_groups[0]
        usual = {name: group[name] for name in settings}
        group.update(settings)
        try:
            yield
        finally:
            group.update(usual)
