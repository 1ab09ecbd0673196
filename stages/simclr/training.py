"""Training with SimCLR (Chen et al. 2020, algorithm 1): a step, an epoch, and the evaluation on held-out images.

Shapes: N images, B of a batch, V = 2B views, P numbers of a projection z.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from stages.io.tensors import Rows
from stages.simclr.distributed import all_gather, shard, sum_gradients
from stages.simclr.loss import cosine_similarities, nt_xent
from stages.simclr.monitoring import contrastive_metrics, embedding_health

HELD_OUT_FRACTION = 0.02  # of the images, rounded up to whole batches: the loss depends on the batch size
HEALTH_IMAGES = 4096
READ_AHEAD_BATCHES = 3
GPU_MEMORY_FACTOR = 4  # the images are copied to a GPU whose free memory is this many times larger

View = Callable[[Tensor, Generator], Tensor]  # (B, H, W, 3) uint8 -> (B, 3, H, W)
Metrics = dict[str, Tensor]  # scalars of one step, left on the device, because reading them waits for the step


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of an epoch's generator, so that a run can resume at any epoch; epoch 0: for what is drawn only once."""
    # Mixed into 32 bits by NumPy, because the Mersenne Twister of torch's CPU generator ignores higher bits.
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def split(count: int, batch_size: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Indices of the training images and of the held-out images, both whole batches (the remainder is left out).

    Without training images if `count` is less than two batches.
    """
    held_out = batch_size * max(1, math.ceil(count * HELD_OUT_FRACTION / batch_size))
    train = max(0, count - held_out) // batch_size * batch_size
    order = torch.randperm(count, generator=rng, device=rng.device)
    return order[held_out : held_out + train], order[:held_out]


def to_gpu(images: Rows, device: torch.device) -> Rows | Tensor:
    """Copies the images to the GPU if they fit easily; otherwise returns them to be read batch by batch."""
    size = math.prod(images.shape)
    if device.type != "cuda" or GPU_MEMORY_FACTOR * size > torch.cuda.mem_get_info(device)[0]:
        return images
    on_gpu = torch.empty(images.shape, dtype=torch.uint8, device=device)
    rows = max(1, 2**28 * len(images) // size)  # 256 MB of host memory at a time
    for start in range(0, len(images), rows):
        on_gpu[start : start + rows] = images[start : start + rows].to(device)
    return on_gpu


def load_batches(images: Rows | Tensor, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """This process's part of every batch, on the device of the indices.

    images: (N, H, W, 3) uint8; batches: (B,) indices each. Yields (V, H, W, 3) uint8: every image twice, first all
    images for the first views, then all for the second views. Images that are not on the GPU are prefetched and copied
    from pinned memory, so that no step waits for them. The host waits if it is three copies ahead of the GPU, because
    pinned memory is reused only after the copy.
    """
    device = batches[0].device
    if isinstance(images, Tensor) and images.device == device:
        yield from (images[shard(batch.repeat(2))] for batch in batches)
        return

    def load(batch: Tensor) -> Tensor:
        rows = images[shard(batch.repeat(2))]
        return rows.pin_memory() if device.type == "cuda" else rows

    def copied(loading: Future[Tensor]) -> Tensor:
        rows = loading.result().to(device, non_blocking=True)
        if rows.is_cuda:
            copying.append(torch.cuda.current_stream(device).record_event())
            if len(copying) > READ_AHEAD_BATCHES:
                copying.popleft().synchronize()
        return rows

    waiting: deque[Future[Tensor]] = deque()
    copying: deque[torch.cuda.Event] = deque()
    with ThreadPoolExecutor(1) as reader:
        for batch in [batch.cpu() for batch in batches]:
            waiting.append(reader.submit(load, batch))
            if len(waiting) > READ_AHEAD_BATCHES:
                yield copied(waiting.popleft())
        yield from map(copied, waiting)


def embed(model: nn.Module, images: Tensor, view: View, rng: Generator) -> Tensor:
    """z (V, P) of all processes, from one view of each image in this process's part of (V, H, W, 3)."""
    views = view(images, rng)
    # Only where the GPU computes in bfloat16: older ones emulate it, which is slower than float32.
    bfloat16 = views.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast(views.device.type, torch.bfloat16, enabled=bfloat16):
        z = model(views.contiguous(memory_format=torch.channels_last))
    return all_gather(z)


def loss_and_metrics(z: Tensor, temperature: float) -> tuple[Tensor, Metrics]:
    """The loss of embeddings (V, P), and the metrics, which include the loss."""
    similarities = cosine_similarities(z)
    loss = nt_xent(similarities, temperature)
    return loss, {"loss": loss.detach(), **contrastive_metrics(similarities.detach())}


@dataclass
class TrainingStep:
    """One step on a batch. It never waits for the device, so that it can be a CUDA graph (`graph.py`).

    Except with several GPUs, where PyTorch's SyncBatchNorm waits three times per layer.
    """

    model: nn.Module
    optimizer: Optimizer
    view: View
    temperature: float
    rng: Generator

    def __call__(self, images: Tensor) -> Metrics:
        """images: (V, H, W, 3) uint8, this process's part of the batch, as `load_batches` yields it."""
        self.model.train()
        loss, metrics = loss_and_metrics(embed(self.model, images, self.view, self.rng), self.temperature)
        loss.backward()
        sum_gradients(self.model)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return metrics


def train_epoch(
    step: Callable[[Tensor], Metrics], images: Rows | Tensor, batches: tuple[Tensor, ...], progress: tqdm
) -> list[Metrics]:
    """Trains on the batches of indices; returns the metrics of each step."""
    steps = []
    for batch, batch_images in zip(batches, load_batches(images, batches), strict=True):
        steps.append(step(batch_images))
        progress.update(len(batch))
    return steps


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: Rows | Tensor, batches: tuple[Tensor, ...], view: View, rng: Generator, temperature: float
) -> dict[str, float]:
    """The same metrics without training, using BatchNorm's running statistics, and the health of the embeddings."""
    model.eval()
    embedded = [embed(model, each, view, rng) for each in load_batches(images, batches)]
    first, second = (torch.cat(views) for views in zip(*(z.float().chunk(2) for z in embedded), strict=True))
    # Only of some images, because the number of pairs grows with the square.
    health = embedding_health(first[:HEALTH_IMAGES], second[:HEALTH_IMAGES])
    return mean_of([loss_and_metrics(z, temperature)[1] for z in embedded]) | health


def mean_of(steps: list[Metrics]) -> dict[str, float]:
    return {name: torch.stack([step[name] for step in steps]).mean().item() for name in steps[0]}
